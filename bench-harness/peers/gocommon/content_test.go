package gocommon

import (
	"fmt"
	"testing"
)

// The same figures stand in the tests of bench-harness/src/sums.rs and src/cli/commands/bench/sum.rs.
func TestWorkloadsHaveKnownSums(t *testing.T) {
	known := map[string]string{
		"telemetry": "dcc558c833cb7022", "telemetry-pool": "dcc558c833cb7022", "fixed:100": "c8e77a511267e02f", "klife": "0a4e38bb6d5b7c05",
	}
	for workload, want := range known {
		from, err := NewSource[plainHeader](workload, 1000)
		if err != nil {
			t.Fatal(err)
		}
		sum := uint64(0)
		for index := uint64(0); index < 1000; index++ {
			c := from.Content(index)
			sum += Sum(c.Key, c.Value, c.Headers)
		}
		if got := fmt.Sprintf("%016x", sum); got != want {
			t.Fatal(workload, got)
		}
	}
	if _, err := NewSource[plainHeader]("fixed:0", 1); err == nil {
		t.Fatal("a workload without bytes")
	}
}
