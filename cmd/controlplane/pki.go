package main

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

	"k8s.io/apimachinery/pkg/util/validation"

	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/identity"
	"evenkeel.io/controlplane/internal/translate"
)

// pki is the folder of certgen.
type pki struct {
	dir         string
	lifetime    time.Duration
	now         time.Time
	told        io.Writer
	serverNames []string
	keepNames   bool // of a server certificate that there is

	rules        identity.Rules
	signer       *authority.Authority
	trusted      [][]byte // certificates of authorities, PEM, the signer's first
	certificates []certificate
}

// certificate is one that the folder has, the server's first.
type certificate struct {
	folder string // below pki.dir
	fleet  string // "" for the server
	files  authority.Pair
}

const (
	serverFolder    = "server"
	authorityFolder = "authority"
)

// load finds out which trust domain it is.
func (p *pki) load(trustDomain string, given bool) error {
	if !given {
		if pair, err := p.read(serverFolder, "tls"); err == nil {
			if c := leafOf(pair); c != nil && len(c.URIs) == 1 {
				trustDomain = c.URIs[0].Host
			}
		}
	}
	var err error
	if p.rules, err = identity.ParseRules(trustDomain); err != nil {
		return usageError(fmt.Errorf("--trust-domain: %w", err))
	}
	return nil
}

// run makes what is missing, renews what needs it, and moves on with a rotation.
func (p *pki) run(fleets []string, rotate bool) error {
	folders := map[string]string{} // of fleets
	for _, fleet := range append(p.fleets(), fleets...) {
		folder, err := folderOf(p.rules, fleet)
		if err != nil {
			return err
		}
		folders[folder] = fleet
	}
	dns, ips, err := splitNames(p.serverNames)
	if err != nil {
		return err
	}
	next, err := p.authority(rotate)
	if err != nil {
		return refusedError(err)
	}
	if p.keepNames {
		if pair, err := p.read(serverFolder, "tls"); err == nil {
			if c := leafOf(pair); c != nil {
				dns, ips = c.DNSNames, c.IPAddresses
			}
		}
	}
	if err := p.keep(certificate{folder: serverFolder}, authority.Request{Name: "evenkeel", DNS: dns, IPs: ips, URI: p.rules.OfReplica(), Server: true}); err != nil {
		return refusedError(err)
	}
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		uri, err := p.rules.OfFleet(folders[folder])
		if err != nil {
			return refusedError(err)
		}
		if err := p.keep(certificate{folder: folder, fleet: folders[folder]}, authority.Request{Name: folders[folder], URI: uri, Server: folders[folder] == translate.RLSFleet}); err != nil {
			return refusedError(err)
		}
	}
	if next != "" {
		fmt.Fprintln(p.told, next)
	}
	return nil
}

// fleets are those that have a folder.
func (p *pki) fleets() []string {
	var fleets []string
	for _, pattern := range []string{"fleet/*/*", "eds/*", translate.RLSFleet} {
		found, _ := filepath.Glob(filepath.Join(p.dir, filepath.FromSlash(pattern), "tls.crt"))
		for _, file := range found {
			folder, _ := filepath.Rel(p.dir, filepath.Dir(file))
			kind, name, _ := strings.Cut(filepath.ToSlash(folder), "/")
			switch kind {
			case "eds":
				name = "eds:" + name
			case translate.RLSFleet:
				name = kind
			}
			if kind == name || translate.ValidateFleet(name) == nil {
				fleets = append(fleets, name)
			}
		}
	}
	return fleets
}

// authority loads the authority or makes it, and moves one step of a rotation: a second one that is
// trusted, then it signs, then it alone is trusted. What is to be done next is returned.
func (p *pki) authority(rotate bool) (next string, err error) {
	made := false
	current, err := p.read(authorityFolder, "ca")
	switch {
	case errors.Is(err, fs.ErrNotExist) && !p.exists(authorityFolder, "ca.crt") && !p.exists(authorityFolder, "ca.key"):
		if rotate {
			return "", fmt.Errorf("--rotate-authority: there is no authority in %s yet: run this without it", filepath.Join(p.dir, authorityFolder))
		}
		if _, current, err = authority.New("Evenkeel authority", p.now, authorityLifetime); err != nil {
			return "", err
		}
		if err := p.write(authorityFolder, "ca", current); err != nil {
			return "", err
		}
		made = true
	case err != nil:
		return "", fmt.Errorf("the authority: %w", err)
	}
	second, err := p.read(authorityFolder, "next")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the next authority: %w", err)
	}
	trusted := blocks(current.Certificate)
	if rotate {
		switch {
		case second.Certificate == nil && len(trusted) == 1:
			if _, second, err = authority.New("Evenkeel authority", p.now, authorityLifetime); err != nil {
				return "", err
			}
			err = p.write(authorityFolder, "next", second)
			next = "1 of 3: a second authority is trusted. Bring all files to the server and the Envoys, then run this again to sign with it."
		case second.Certificate != nil:
			current = authority.Pair{Certificate: slices.Concat(second.Certificate, trusted[0]), Key: second.Key}
			if err = p.write(authorityFolder, "ca", current); err == nil {
				err = p.remove(authorityFolder, "next")
			}
			trusted, second = blocks(current.Certificate), authority.Pair{}
			next = "2 of 3: certificates are signed by the second authority. Bring all files to the server and the Envoys, then run this again to trust it alone."
		default:
			current.Certificate = trusted[0]
			trusted = trusted[:1]
			err = p.write(authorityFolder, "ca", current)
			next = "3 of 3: the first authority is trusted no longer. Bring all files to the server and the Envoys; connections with its certificates end."
		}
		if err != nil {
			return "", err
		}
	}
	if p.signer, err = authority.Load(current); err != nil {
		return "", fmt.Errorf("the authority in %s: %w", filepath.Join(p.dir, authorityFolder), err)
	}
	p.trusted = append(trusted, blocks(second.Certificate)...)
	until := p.signer.Certificate().NotAfter
	if until.Before(p.now) {
		return "", fmt.Errorf("the authority in %s expired at %s: move that folder away to begin with a new one", filepath.Join(p.dir, authorityFolder), until.Format(time.DateOnly))
	}
	did := "kept"
	if made {
		did = "made"
	}
	p.tell(did, authorityFolder, until)
	if until.Before(p.now.Add(p.lifetime)) && next == "" {
		next = "The authority expires before certificates would: replace it with --rotate-authority."
	}
	return next, nil
}

// bundle is ca.crt: all that are trusted.
func (p *pki) bundle() []byte { return bytes.Join(p.trusted, nil) }

// keep has a certificate in the folder that says what is requested, for a third of its lifetime at least.
func (p *pki) keep(c certificate, r authority.Request) error {
	did := "kept"
	var err error
	c.files, err = p.read(c.folder, "tls")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if leaf := leafOf(c.files); leaf == nil || !p.good(leaf, c.files, r) {
		did = "made"
		if leaf != nil {
			did = "renewed"
		}
		r.NotBefore, r.NotAfter = p.now, p.now.Add(p.lifetime)
		if c.files, err = p.signer.Issue(r); err != nil {
			return err
		}
		if err := p.write(c.folder, "tls", c.files); err != nil {
			return err
		}
	}
	if err := p.replace(filepath.Join(p.dir, c.folder, "ca.crt"), p.bundle(), 0o644); err != nil {
		return err
	}
	p.certificates = append(p.certificates, c)
	p.tell(did, c.folder, leafOf(c.files).NotAfter)
	return nil
}

// good says whether a certificate can stay.
func (p *pki) good(leaf *x509.Certificate, pair authority.Pair, r authority.Request) bool {
	if _, err := tls.X509KeyPair(pair.Certificate, pair.Key); err != nil {
		return false
	}
	left, whole := leaf.NotAfter.Sub(p.now), leaf.NotAfter.Sub(leaf.NotBefore)
	sameURI := func(a, b *url.URL) bool { return a.String() == b.String() }
	sameIP := func(a, b net.IP) bool { return a.Equal(b) }
	return leaf.CheckSignatureFrom(p.signer.Certificate()) == nil && left > whole/3 && !p.now.Before(leaf.NotBefore) &&
		slices.Equal(leaf.DNSNames, r.DNS) && slices.EqualFunc(leaf.IPAddresses, r.IPs, sameIP) && slices.EqualFunc(leaf.URIs, []*url.URL{r.URI}, sameURI)
}

func (p *pki) tell(did, folder string, until time.Time) {
	fmt.Fprintf(p.told, "%-8s until %s  %s\n", did, until.Format(time.DateOnly), filepath.Join(p.dir, folder))
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

func (p *pki) exists(folder, name string) bool {
	_, err := os.Lstat(filepath.Join(p.dir, folder, name))
	return err == nil
}

// read reads NAME.crt and NAME.key.
func (p *pki) read(folder, name string) (pair authority.Pair, err error) {
	var certErr, keyErr error
	path := filepath.Join(p.dir, folder, name)
	pair.Certificate, certErr = os.ReadFile(path + ".crt")
	pair.Key, keyErr = os.ReadFile(path + ".key")
	if err := errors.Join(certErr, keyErr); err != nil {
		return authority.Pair{}, err
	}
	return pair, nil
}

// write replaces NAME.crt and NAME.key. The key comes first: a watcher that sees the certificate change has
// both.
func (p *pki) write(folder, name string, pair authority.Pair) error {
	path := filepath.Join(p.dir, folder, name)
	if err := p.replace(path+".key", pair.Key, 0o600); err != nil {
		return err
	}
	return p.replace(path+".crt", pair.Certificate, 0o644)
}

func (p *pki) remove(folder, name string) error {
	path := filepath.Join(p.dir, folder, name)
	return errors.Join(os.Remove(path+".key"), os.Remove(path+".crt"))
}

// replace replaces a file in one step, if it does not say the same already.
func (p *pki) replace(path string, content []byte, mode fs.FileMode) error {
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

func isDNSName(name string) bool {
	return len(validation.IsDNS1123Subdomain(name)) == 0 || len(validation.IsWildcardDNS1123Subdomain(name)) == 0
}

// secretOf is where the Secret of a fleet's certificate belongs; no namespace is the server's.
func secretOf(fleet string) (namespace, name string) {
	if fleet == translate.RLSFleet {
		return "", "evenkeel-rls"
	}
	if namespace, ok := translate.EDSOnly(fleet); ok {
		return namespace, "evenkeel-eds"
	}
	namespace, gateway, _ := strings.Cut(fleet, "/")
	return namespace, "evenkeel-fleet-" + gateway
}
