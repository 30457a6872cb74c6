// Package authtest is what tests of ports with certificates share.
package authtest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"evenkeel.io/controlplane/internal/auth/authority"
)

// Mount writes the files of a directory as Kubernetes mounts a Secret: behind a symlink that is swapped.
func Mount(t *testing.T, dir string, pair authority.Pair, authorities ...[]byte) {
	t.Helper()
	version, err := os.MkdirTemp(dir, "..version-")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"tls.crt": pair.Certificate, "tls.key": pair.Key, "ca.crt": slices.Concat(authorities...)} {
		if err := os.WriteFile(filepath.Join(version, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	temp := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(version), temp); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}
