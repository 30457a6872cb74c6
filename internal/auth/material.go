package auth

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// material is what is shown to clients and whom they are trusted from. It is immutable.
type material struct {
	digest   digest
	config   *tls.Config
	leaf     *x509.Certificate
	trusted  map[key]bool
	notAfter time.Time // of the authority that is valid longest
}

// key tells authorities apart. A certificate of an authority that is made anew with the same name and key
// is the same authority, and what it signed before still holds.
type key [sha256.Size]byte

func keyOf(c *x509.Certificate) key {
	h := sha256.New()
	fmt.Fprintf(h, "%d ", len(c.RawSubject))
	h.Write(c.RawSubject)
	h.Write(c.RawSubjectPublicKeyInfo)
	return key(h.Sum(nil))
}

// material makes what the files say. The error names the file and what was expected of it.
func (f files) material(now time.Time) (*material, error) {
	crt, ca := filepath.Join(f.dir, certificateFile), filepath.Join(f.dir, authorityFile)
	certificate, err := tls.X509KeyPair(f.certificate, f.key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", crt, keyFile, err)
	}
	leaf := certificate.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("%s: the certificate expired at %s", crt, leaf.NotAfter.Format(time.RFC3339))
	case len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0:
		return nil, fmt.Errorf("%s: the certificate has no DNS name and no address: expected those by which clients reach this server", crt)
	case len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return nil, fmt.Errorf("%s: the certificate is not for servers: expected the extended key usage serverAuth", crt)
	}
	authorities, err := parseAuthorities(f.authority, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ca, err)
	}
	m := &material{digest: f.digest(), leaf: leaf, trusted: map[key]bool{}}
	pool := x509.NewCertPool()
	for _, authority := range authorities {
		pool.AddCert(authority)
		m.trusted[keyOf(authority)] = true
		if authority.NotAfter.After(m.notAfter) {
			m.notAfter = authority.NotAfter
		}
	}
	m.config = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		NextProtos:   []string{"h2"},
		// A resumed session would be one whose certificate nobody looked at again.
		SessionTicketsDisabled: true,
	}
	return m, nil
}

// parseAuthorities reads those that are still valid, one at least.
func parseAuthorities(text []byte, now time.Time) ([]*x509.Certificate, error) {
	var valid []*x509.Certificate
	expired := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a block of PEM of type %q: expected certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return nil, err
		case !c.IsCA:
			return nil, fmt.Errorf("the certificate of %q is not that of an authority", c.Subject)
		case now.After(c.NotAfter):
			expired = true
		default:
			valid = append(valid, c)
		}
	}
	switch {
	case len(valid) > 0:
		return valid, nil
	case expired:
		return nil, errors.New("all authorities have expired")
	}
	return nil, errors.New("expected the certificates of authorities as PEM, and found none")
}
