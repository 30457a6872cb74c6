package translate_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden shows what the wire carries for a fleet, as a reader of Envoy's documentation knows it.
// After a change that is meant: go test ./internal/translate -run Golden -update, and read the diff.
func TestGolden(t *testing.T) {
	f, services := shop()
	byType := map[translate.Type][]translate.Resource{}
	for _, r := range translate.Fleet(f, translate.Options{}) {
		byType[r.Type] = append(byType[r.Type], r)
	}
	for _, name := range f.Services {
		byType[translate.CDS] = append(byType[translate.CDS], translate.Cluster(services[name]))
		byType[translate.EDS] = append(byType[translate.EDS], translate.Assignment(services[name], nil))
	}
	byType[translate.EDS] = append(byType[translate.EDS], translate.RateLimitService([]string{"10.0.9.1:18081"}))
	byType[translate.RLS] = append(byType[translate.RLS], translate.RateLimitConfig(f.Name, f.Rules, nil))
	for _, typ := range translate.Types {
		t.Run(string(typ), func(t *testing.T) {
			var got bytes.Buffer
			for _, r := range byType[typ] {
				encoded, err := snapshot.Encode(r)
				if err != nil {
					t.Fatal(err)
				}
				text, err := encoded.YAML()
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "# %s, from %s\n---\n%s", r.Name, r.Source, text)
			}
			golden := filepath.Join("testdata", "shop."+string(typ)+".yaml")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s is not what was generated, which is:\n%s", golden, got.Bytes())
			}
		})
	}
}
