package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/identity"
)

// certgen runs the command and returns what it prints to both outputs.
func certgen(t *testing.T, dir string, args ...string) (out, errs string) {
	t.Helper()
	out, errs, err := tryCertgen(dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out, errs
}

func tryCertgen(dir string, args ...string) (out, errs string, err error) {
	var stdout, stderr bytes.Buffer
	cmd := newCertgenCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetArgs(append([]string{"--dir", dir}, args...))
	err = cmd.Execute()
	return stdout.String(), stderr.String(), err
}

// tree is all files of a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func leafIn(t *testing.T, dir, folder string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, folder, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s has no certificate", folder)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// trusts says whether what a folder trusts signed a certificate.
func trusts(t *testing.T, dir, folder string, leaf *x509.Certificate) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, folder, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

func TestCertgenMakesWhatBothEndsNeed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	certgen(t, dir, "--fleet", "shop/edge,eds:shop,rls", "--fleet", "bank/gate.v2", "--trust-domain", "example.org")
	files := tree(t, dir)
	for _, folder := range []string{"server", "fleet/shop/edge", "fleet/bank/gate.v2", "eds/shop", "rls"} {
		for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
			if files[folder+"/"+name] == "" {
				t.Errorf("%s/%s is missing", folder, name)
			}
		}
		leaf := leafIn(t, dir, folder)
		if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: %T, want ECDSA P-256", folder, leaf.PublicKey)
		}
		if left := time.Until(leaf.NotAfter); left < 364*24*time.Hour || left > 366*24*time.Hour || !trusts(t, dir, "server", leaf) {
			t.Errorf("%s: until %v, issuer %v", folder, leaf.NotAfter, leaf.Issuer)
		}
	}
	if len(files) != 2+5*3 {
		t.Errorf("%d files", len(files))
	}
	for name := range files {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || strings.HasSuffix(name, ".key") && info.Mode().Perm() != 0o600 || info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}

	rules, err := identity.ParseRules("example.org")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := auth.Open(auth.Options{Dir: filepath.Join(dir, "server"), Rules: rules}); err != nil {
		t.Errorf("serve does not take them: %v", err)
	}
	for folder, fleet := range map[string]string{"fleet/shop/edge": "shop/edge", "fleet/bank/gate.v2": "bank/gate.v2", "eds/shop": "eds:shop"} {
		leaf := leafIn(t, dir, folder)
		who, err := rules.Of(leaf.DNSNames, leaf.URIs)
		if err != nil || !who.MaySee(fleet) || who.IsReplica() || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
			t.Errorf("%s: %v, %v, usage %v", folder, who, err, leaf.ExtKeyUsage)
		}
	}
	limiter := leafIn(t, dir, "rls") // answers Envoys too
	if who, err := rules.Of(limiter.DNSNames, limiter.URIs); err != nil || !who.MaySee("rls") || who.MaySee("shop/edge") || who.IsReplica() ||
		!slices.Equal(limiter.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}) {
		t.Errorf("rls: %v, %v, usage %v", who, err, limiter.ExtKeyUsage)
	}
	server := leafIn(t, dir, "server")
	who, err := rules.Of(server.DNSNames, server.URIs)
	if err != nil || !who.IsReplica() || who.MaySee("shop/edge") {
		t.Errorf("server: %v, %v", who, err)
	}
	for _, name := range []string{"evenkeel.evenkeel-system.svc", "localhost", "127.0.0.1", "::1"} {
		if err := server.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

func TestCertgenAgain(t *testing.T) {
	dir := t.TempDir()
	certgen(t, dir, "--fleet", "shop/edge", "--trust-domain", "example.org", "--server-name", "evenkeel.infra,10.0.0.7")
	first := tree(t, dir)
	out, _ := certgen(t, dir)
	for name, text := range tree(t, dir) {
		if first[name] != text {
			t.Errorf("%s changed though nothing was asked for", name)
		}
	}
	if strings.Count(out, "kept") != 3 {
		t.Errorf("it prints\n%s", out)
	}

	certgen(t, dir, "--fleet", "eds:shop")
	now := tree(t, dir)
	if len(now) != len(first)+3 || now["fleet/shop/edge/tls.crt"] != first["fleet/shop/edge/tls.crt"] || leafIn(t, dir, "eds/shop").URIs[0].Host != "example.org" {
		t.Error("another fleet changed more than that, or forgot the trust domain")
	}
	certgen(t, dir, "--server-name", "evenkeel.infra")
	if got := leafIn(t, dir, "server"); !slices.Equal(got.DNSNames, []string{"evenkeel.infra"}) || len(got.IPAddresses) > 0 {
		t.Errorf("server names %v %v", got.DNSNames, got.IPAddresses)
	}
	if tree(t, dir)["authority/ca.crt"] != first["authority/ca.crt"] {
		t.Error("another authority")
	}

	// A key that belongs to another certificate is no good.
	if err := os.WriteFile(filepath.Join(dir, "eds/shop/tls.key"), []byte(now["fleet/shop/edge/tls.key"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _ := certgen(t, dir); !strings.Contains(out, "renewed") || tree(t, dir)["eds/shop/tls.crt"] == now["eds/shop/tls.crt"] {
		t.Errorf("a certificate with another's key stayed:\n%s", out)
	}
}

// TestCertgenRotatesTheAuthority: between any two neighbouring steps, what one end shows the other trusts.
func TestCertgenRotatesTheAuthority(t *testing.T) {
	dir := t.TempDir()
	certgen(t, dir, "--fleet", "shop/edge")
	leaf := leafIn(t, dir, "fleet/shop/edge")
	for i, step := range []struct {
		say     string
		signers int // in ca.crt
		same    bool
	}{{"1 of 3", 2, true}, {"2 of 3", 2, false}, {"3 of 3", 1, true}, {"1 of 3", 2, true}} {
		stale := leaf
		bundle := tree(t, dir)["server/ca.crt"]
		out, _ := certgen(t, dir, "--rotate-authority")
		leaf = leafIn(t, dir, "fleet/shop/edge")
		files := tree(t, dir)
		signers := strings.Count(files["server/ca.crt"], "BEGIN CERTIFICATE")
		if !strings.Contains(out, step.say) || signers != step.signers || leaf.Equal(stale) != step.same {
			t.Errorf("step %d: %d authorities, the same certificate: %v\n%s", i+1, signers, leaf.Equal(stale), out)
		}
		if files["server/ca.crt"] != files["fleet/shop/edge/ca.crt"] {
			t.Errorf("step %d: both ends trust different authorities", i+1)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(bundle))
		_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil || !trusts(t, dir, "server", stale) {
			t.Errorf("step %d: an end that has not moved yet and one that has do not trust each other: %v", i+1, err)
		}
		certgen(t, dir) // in between nothing moves
		if again := tree(t, dir); again["server/ca.crt"] != files["server/ca.crt"] || again["server/tls.crt"] != files["server/tls.crt"] {
			t.Errorf("step %d: a run in between moved on", i+1)
		}
	}
}

func TestCertgenPrintsSecrets(t *testing.T) {
	dir := t.TempDir()
	out, told := certgen(t, dir, "--fleet", "shop/edge", "--fleet", "eds:shop", "--secrets", "--namespace", "infra")
	if !strings.Contains(told, "made") {
		t.Errorf("to stderr: %s", told)
	}
	files := tree(t, dir)
	if strings.Contains(out, strings.TrimSpace(files["authority/ca.key"])) {
		t.Error("the authority's key is printed")
	}
	folders := map[string]string{"infra/evenkeel-server": "server", "shop/evenkeel-fleet-edge": "fleet/shop/edge", "shop/evenkeel-eds": "eds/shop"}
	for text := range strings.SplitSeq(strings.TrimPrefix(out, "---\n"), "---\n") {
		var secret corev1.Secret
		if err := yaml.UnmarshalStrict([]byte(text), &secret); err != nil {
			t.Fatal(err)
		}
		name := secret.Namespace + "/" + secret.Name
		folder, ok := folders[name]
		delete(folders, name)
		if !ok || secret.Kind != "Secret" || secret.Type != corev1.SecretTypeTLS || len(secret.Data) != 3 {
			t.Errorf("%s", text)
		}
		for key, value := range secret.Data {
			if files[folder+"/"+key] != string(value) {
				t.Errorf("%s: %s is not the file's", name, key)
			}
		}
	}
	if len(folders) > 0 {
		t.Errorf("missing: %v", folders)
	}
}

func TestCertgenRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--fleet", "shop"}, `fleet "shop"`, exitUsage},
		{[]string{"--fleet", "../../etc/x"}, "fleet", exitUsage},
		{[]string{"--server-name", "a b"}, `--server-name "a b"`, exitUsage},
		{[]string{"--lifetime", "1s"}, "--lifetime", exitUsage},
		{[]string{"--trust-domain", "A"}, "--trust-domain", exitUsage},
		{[]string{"--rotate-authority"}, "there is no authority", exitRefused},
	} {
		_, _, err := tryCertgen(t.TempDir(), c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != c.code {
			t.Errorf("%v: %v with %d, want %q with %d", c.args, err, exitCode(err), c.want, c.code)
		}
	}
	if _, _, err := tryCertgen(""); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("no folder: %v", err)
	}
	// Half an authority is not replaced: the other half may come back.
	dir := t.TempDir()
	certgen(t, dir)
	if err := os.Remove(filepath.Join(dir, "authority/ca.key")); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	if _, _, err := tryCertgen(dir); !errors.Is(err, fs.ErrNotExist) || len(tree(t, dir)) != len(before) {
		t.Errorf("without the key: %v", err)
	}
}
