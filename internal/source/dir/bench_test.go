package dir

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkIdleLook is a look at 1000 files of which none changed: what the poll costs.
func BenchmarkIdleLook(b *testing.B) {
	f := &folder{dir: b.TempDir(), limits: defaultLimits}
	for i := range 1000 {
		write(b, f.dir, fmt.Sprintf("%d/%d.yaml", i%10, i), service(fmt.Sprintf("s%d", i), 80))
	}
	if err := f.read(); err != nil {
		b.Fatal(err)
	}
	for _, file := range f.files { // as if they were written long ago
		file.readAt = time.Now().Add(time.Hour)
	}
	for b.Loop() {
		if err := f.read(); err != nil {
			b.Fatal(err)
		}
	}
}
