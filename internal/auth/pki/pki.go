// Package pki keeps an authority and the certificates that it signs in a folder, for those who have nothing else that
// does: what `controlplane certgen` does. Package authority makes the bytes; what a name permits is identity's.
//
//	authority/               ca.crt and ca.key, during a rotation also next.crt and next.key
//	server/                  tls.crt, tls.key, ca.crt of the control plane
//	fleet/NAMESPACE/GATEWAY/ the same of a fleet
//	eds/NAMESPACE/           the same of clients that take endpoints only
//	rls/                     the same of a reference rate limit service
//
// Each file is replaced in one step, and only if it is to say something else.
package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/identity"
)

// Folder is where an authority and its certificates are kept. A call of Keep is what there is to do with it.
type Folder struct {
	Dir string
	// Lifetime of the certificates that are made, and Now.
	Lifetime time.Duration
	Now      time.Time
	// Rules say what names certificates have.
	Rules identity.Rules
	// DNS and IPs are by what clients reach the server; KeepNames has those stay that its certificate has, if
	// there is one.
	DNS       []string
	IPs       []net.IP
	KeepNames bool
	// Told is a line for each certificate: what was done, until when it is valid, and where it is.
	Told io.Writer

	signer  *authority.Authority
	trusted [][]byte // certificates of authorities, PEM, the signer's first
	kept    []Certificate
}

// Certificate is one that the folder has.
type Certificate struct {
	Folder string // below Folder.Dir
	Fleet  string // "" for the server
	authority.Pair
}

// Kept is what a folder has, the server's certificate first.
type Kept struct {
	Certificates []Certificate
	// Trusted is ca.crt, the same for all.
	Trusted []byte
	// Next is what is to be done next, "" for nothing.
	Next string
}

const (
	serverFolder    = "server"
	authorityFolder = "authority"

	// authorityLifetime is long, because to change the authority touches every Envoy.
	authorityLifetime = 10 * 365 * 24 * time.Hour
)

// TrustDomain is that of the certificates that a folder has, "" if it has none.
func TrustDomain(dir string) string {
	f := Folder{Dir: dir}
	if pair, err := f.read(serverFolder, "tls"); err == nil {
		if c := leafOf(pair); c != nil && len(c.URIs) == 1 {
			return c.URIs[0].Host
		}
	}
	return ""
}

// Keep makes what is missing for the server, for these fleets and for those that have a folder already, renews
// what needs it, and with rotate moves the authority one step of a rotation.
func (f *Folder) Keep(fleets []string, rotate bool) (*Kept, error) {
	folders := map[string]authority.Request{} // of fleets, named as the fleet
	for _, fleet := range append(f.fleets(), fleets...) {
		uri, err := f.Rules.OfFleet(fleet)
		if err != nil {
			return nil, err
		}
		folder := filepath.FromSlash(uri.Path[1:]) // the path of its SPIFFE ID
		folders[folder] = authority.Request{Name: fleet, URI: uri, Server: fleet == identity.RateLimitFleet}
	}
	next, err := f.authority(rotate)
	if err != nil {
		return nil, err
	}
	server := authority.Request{Name: "evenkeel", DNS: f.DNS, IPs: f.IPs, URI: f.Rules.OfReplica(), Server: true}
	if f.KeepNames {
		if pair, err := f.read(serverFolder, "tls"); err == nil {
			if c := leafOf(pair); c != nil {
				server.DNS, server.IPs = c.DNSNames, c.IPAddresses
			}
		}
	}
	f.kept = nil
	if err := f.keep(Certificate{Folder: serverFolder}, server); err != nil {
		return nil, err
	}
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		if err := f.keep(Certificate{Folder: folder, Fleet: folders[folder].Name}, folders[folder]); err != nil {
			return nil, err
		}
	}
	return &Kept{Certificates: f.kept, Trusted: f.bundle(), Next: next}, nil
}

// fleets are those that have a folder.
func (f *Folder) fleets() []string {
	var fleets []string
	for _, pattern := range []string{"fleet/*/*", "eds/*", identity.RateLimitFleet} {
		found, _ := filepath.Glob(filepath.Join(f.Dir, filepath.FromSlash(pattern), "tls.crt"))
		for _, file := range found {
			folder, _ := filepath.Rel(f.Dir, filepath.Dir(file))
			kind, name, _ := strings.Cut(filepath.ToSlash(folder), "/")
			switch kind {
			case "eds":
				name = "eds:" + name
			case identity.RateLimitFleet:
				name = kind
			}
			if _, err := f.Rules.OfFleet(name); err == nil {
				fleets = append(fleets, name)
			}
		}
	}
	return fleets
}

// authority loads the authority or makes it, and moves one step of a rotation: a second one that is
// trusted, then it signs, then it alone is trusted. What is to be done next is returned.
func (f *Folder) authority(rotate bool) (next string, err error) {
	made := false
	current, err := f.read(authorityFolder, "ca")
	switch {
	case errors.Is(err, fs.ErrNotExist) && !f.exists(authorityFolder, "ca.crt") && !f.exists(authorityFolder, "ca.key"):
		if rotate {
			return "", fmt.Errorf("--rotate-authority: there is no authority in %s yet: run this without it", filepath.Join(f.Dir, authorityFolder))
		}
		if _, current, err = authority.New("Evenkeel authority", f.Now, authorityLifetime); err != nil {
			return "", err
		}
		if err := f.write(authorityFolder, "ca", current); err != nil {
			return "", err
		}
		made = true
	case err != nil:
		return "", fmt.Errorf("the authority: %w", err)
	}
	second, err := f.read(authorityFolder, "next")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the next authority: %w", err)
	}
	trusted := blocks(current.Certificate)
	if rotate {
		switch {
		case second.Certificate == nil && len(trusted) == 1:
			if _, second, err = authority.New("Evenkeel authority", f.Now, authorityLifetime); err != nil {
				return "", err
			}
			err = f.write(authorityFolder, "next", second)
			next = "1 of 3: a second authority is trusted. Bring all files to the server and the Envoys, then run this again to sign with it."
		case second.Certificate != nil:
			current = authority.Pair{Certificate: slices.Concat(second.Certificate, trusted[0]), Key: second.Key}
			if err = f.write(authorityFolder, "ca", current); err == nil {
				err = f.remove(authorityFolder, "next")
			}
			trusted, second = blocks(current.Certificate), authority.Pair{}
			next = "2 of 3: certificates are signed by the second authority. Bring all files to the server and the Envoys, then run this again to trust it alone."
		default:
			current.Certificate = trusted[0]
			trusted = trusted[:1]
			err = f.write(authorityFolder, "ca", current)
			next = "3 of 3: the first authority is trusted no longer. Bring all files to the server and the Envoys; connections with its certificates end."
		}
		if err != nil {
			return "", err
		}
	}
	if f.signer, err = authority.Load(current); err != nil {
		return "", fmt.Errorf("the authority in %s: %w", filepath.Join(f.Dir, authorityFolder), err)
	}
	f.trusted = append(trusted, blocks(second.Certificate)...)
	until := f.signer.Certificate().NotAfter
	if until.Before(f.Now) {
		return "", fmt.Errorf("the authority in %s expired at %s: move that folder away to begin with a new one", filepath.Join(f.Dir, authorityFolder), until.Format(time.DateOnly))
	}
	did := "kept"
	if made {
		did = "made"
	}
	f.tell(did, authorityFolder, until)
	if until.Before(f.Now.Add(f.Lifetime)) && next == "" {
		next = "The authority expires before certificates would: replace it with --rotate-authority."
	}
	return next, nil
}

// bundle is ca.crt: all that are trusted.
func (f *Folder) bundle() []byte { return bytes.Join(f.trusted, nil) }

// keep has a certificate in the folder that says what is requested, for a third of its lifetime at least.
func (f *Folder) keep(c Certificate, r authority.Request) error {
	did := "kept"
	var err error
	c.Pair, err = f.read(c.Folder, "tls")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if leaf := leafOf(c.Pair); leaf == nil || !f.good(leaf, c.Pair, r) {
		did = "made"
		if leaf != nil {
			did = "renewed"
		}
		r.NotBefore, r.NotAfter = f.Now, f.Now.Add(f.Lifetime)
		if c.Pair, err = f.signer.Issue(r); err != nil {
			return err
		}
		if err := f.write(c.Folder, "tls", c.Pair); err != nil {
			return err
		}
	}
	if err := f.replace(filepath.Join(f.Dir, c.Folder, "ca.crt"), f.bundle(), 0o644); err != nil {
		return err
	}
	f.kept = append(f.kept, c)
	f.tell(did, c.Folder, leafOf(c.Pair).NotAfter)
	return nil
}

// good says whether a certificate can stay.
func (f *Folder) good(leaf *x509.Certificate, pair authority.Pair, r authority.Request) bool {
	if _, err := tls.X509KeyPair(pair.Certificate, pair.Key); err != nil {
		return false
	}
	left, whole := leaf.NotAfter.Sub(f.Now), leaf.NotAfter.Sub(leaf.NotBefore)
	sameURI := func(a, b *url.URL) bool { return a.String() == b.String() }
	sameIP := func(a, b net.IP) bool { return a.Equal(b) }
	return leaf.CheckSignatureFrom(f.signer.Certificate()) == nil && left > whole/3 && !f.Now.Before(leaf.NotBefore) &&
		slices.Equal(leaf.DNSNames, r.DNS) && slices.EqualFunc(leaf.IPAddresses, r.IPs, sameIP) && slices.EqualFunc(leaf.URIs, []*url.URL{r.URI}, sameURI)
}

func (f *Folder) tell(did, folder string, until time.Time) {
	fmt.Fprintf(f.Told, "%-8s until %s  %s\n", did, until.Format(time.DateOnly), filepath.Join(f.Dir, folder))
}

// leafOf is nil where there is none.
func leafOf(pair authority.Pair) *x509.Certificate {
	block, _ := pem.Decode(pair.Certificate)
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return c
}

// blocks are the certificates in a file, each as PEM.
func blocks(text []byte) [][]byte {
	var all [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		all = append(all, pem.EncodeToMemory(block))
	}
	return all
}

func (f *Folder) exists(folder, name string) bool {
	_, err := os.Lstat(filepath.Join(f.Dir, folder, name))
	return err == nil
}

// read reads NAME.crt and NAME.key.
func (f *Folder) read(folder, name string) (pair authority.Pair, err error) {
	var certErr, keyErr error
	path := filepath.Join(f.Dir, folder, name)
	pair.Certificate, certErr = os.ReadFile(path + ".crt")
	pair.Key, keyErr = os.ReadFile(path + ".key")
	if err := errors.Join(certErr, keyErr); err != nil {
		return authority.Pair{}, err
	}
	return pair, nil
}

// write replaces NAME.crt and NAME.key. The key comes first: a watcher that sees the certificate change has
// both.
func (f *Folder) write(folder, name string, pair authority.Pair) error {
	path := filepath.Join(f.Dir, folder, name)
	if err := f.replace(path+".key", pair.Key, 0o600); err != nil {
		return err
	}
	return f.replace(path+".crt", pair.Certificate, 0o644)
}

func (f *Folder) remove(folder, name string) error {
	path := filepath.Join(f.Dir, folder, name)
	return errors.Join(os.Remove(path+".key"), os.Remove(path+".crt"))
}

// replace replaces a file in one step, if it does not say the same already.
func (f *Folder) replace(path string, content []byte, mode fs.FileMode) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, content) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".certgen-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(content)
	if err := errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
