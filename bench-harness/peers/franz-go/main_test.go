package main

import (
	"fmt"
	"testing"
)

// The same figure stands in the test of src/cli/commands/bench/sum.rs.
func TestTheTelemetryWorkloadHasAKnownSum(t *testing.T) {
	sum := uint64(0)
	for index := uint64(0); index < 1000; index++ {
		sum += sumOf(record("t", index, 0))
	}
	if got := fmt.Sprintf("%016x", sum); got != "dcc558c833cb7022" {
		t.Fatal(got)
	}
}
