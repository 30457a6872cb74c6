package pipeline

import "testing"

// BenchmarkForGRPC is the first rendering for gRPC clients of 1000 Services of ten endpoints behind 1000
// routes, and the memory that it takes while one is connected.
func BenchmarkForGRPC(b *testing.B) {
	served := big(b, 1000, 10).fleets[edge].served
	before := heap()
	kept := served.ForGRPC(nil)
	taken := heap() - before
	for b.Loop() {
		served.ForGRPC(nil)
	}
	b.ReportMetric(float64(taken)/(1<<20), "MB")
	if len(kept.Resources("cds")) < 1000 {
		b.Fatal("not everything was rendered")
	}
}
