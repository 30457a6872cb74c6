package pki

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/auth/identity"
)

// TestKeepRenews: with a third of the lifetime left, not before, and never beyond the authority's own.
func TestKeepRenews(t *testing.T) {
	dir := t.TempDir()
	start := time.Now()
	rules, err := identity.ParseRules("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(folder string) *x509.Certificate {
		t.Helper()
		pair, err := (&Folder{Dir: dir}).read(folder, "tls")
		if err != nil {
			t.Fatal(err)
		}
		return leafOf(pair)
	}
	at := func(days int) (string, error) {
		var out bytes.Buffer
		f := Folder{Dir: dir, Lifetime: 365 * 24 * time.Hour, Now: start.AddDate(0, 0, days), Told: &out, Rules: rules, DNS: []string{"localhost"}}
		kept, err := f.Keep([]string{"shop/edge"}, false)
		if err != nil {
			return "", err
		}
		return out.String() + kept.Next, nil
	}
	for _, step := range []struct {
		day  int
		want string
	}{{0, "made"}, {240, "kept"}, {250, "renewed"}, {480, "kept"}, {500, "renewed"}, {3600, "renewed"}} {
		out, err := at(step.day)
		if err != nil || strings.Count(out, step.want) < 2 {
			t.Errorf("day %d: %v, want %s\n%s", step.day, err, step.want, out)
		}
	}
	if leaf := certificate("fleet/shop/edge"); leaf.NotAfter.Sub(start) > authorityLifetime {
		t.Errorf("valid until %v, longer than its authority", leaf.NotAfter)
	}
	if out, _ := at(3600); !strings.Contains(out, "--rotate-authority") {
		t.Errorf("no word of the authority's end:\n%s", out)
	}
	before := certificate("server")
	if _, err := at(3700); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired authority: %v", err)
	}
	if !certificate("server").Equal(before) {
		t.Error("an expired authority signed")
	}
}
