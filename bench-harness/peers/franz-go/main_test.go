package main

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
		from, err := newSource(workload, "t", 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		sum := uint64(0)
		for index := uint64(0); index < 1000; index++ {
			sum += sumOf(from.record(index))
		}
		if got := fmt.Sprintf("%016x", sum); got != want {
			t.Fatal(workload, got)
		}
	}
	if _, err := newSource("fixed:0", "t", 1, 0); err == nil {
		t.Fatal("a workload without bytes")
	}
}
