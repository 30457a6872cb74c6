// Package authority makes certificates: an authority of our own, and what it signs for the control plane and
// for its clients. It makes bytes; where they are kept, and when they are made anew, is its caller's
// business, and whom they permit what, package identity's.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// skew is by how much a certificate is valid before it is made: clocks differ.
const skew = 5 * time.Minute

// Pair is a certificate and its key, as PEM. Keys are ECDSA P-256 in PKCS #8.
type Pair struct{ Certificate, Key []byte }

// Authority signs certificates.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// New makes an authority, and the pair to load it from again. It signs no other authorities.
func New(name string, now time.Time, lifetime time.Duration) (*Authority, Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, Pair{}, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-skew), NotAfter: now.Add(lifetime),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	pair, err := sign(template, key, template, key)
	if err != nil {
		return nil, Pair{}, err
	}
	a, err := Load(pair)
	return a, pair, err
}

// Load is an authority from its pair. Of several certificates the first is its own.
func Load(pair Pair) (*Authority, error) {
	block, _ := pem.Decode(pair.Certificate)
	if block == nil {
		return nil, errors.New("expected a certificate as PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if block, _ = pem.Decode(pair.Key); block == nil {
		return nil, errors.New("expected a key as PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("expected an ECDSA key, not %T", parsed)
	case !key.PublicKey.Equal(certificate.PublicKey):
		return nil, errors.New("the key is not the certificate's")
	case !certificate.IsCA:
		return nil, errors.New("the certificate is not that of an authority")
	}
	return &Authority{certificate: certificate, key: key}, nil
}

// Certificate is the authority's own. It must not be changed.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// Request is what a certificate shall say.
type Request struct {
	// Name is for people; nothing is permitted by it.
	Name string
	// DNS, IPs and URI are its names; nil URI is none.
	DNS []string
	IPs []net.IP
	URI *url.URL
	// Server lets it be shown by servers, and by clients too; otherwise by clients alone.
	Server bool
	// NotBefore and NotAfter are when it is valid: never longer than the authority's own certificate.
	NotBefore, NotAfter time.Time
}

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: r.Name}, DNSNames: r.DNS, IPAddresses: r.IPs,
		NotBefore: r.NotBefore.Add(-skew), NotAfter: r.NotAfter,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	if r.URI != nil {
		template.URIs = []*url.URL{r.URI}
	}
	if r.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return sign(template, key, a.certificate, a.key)
}

func sign(template *x509.Certificate, key *ecdsa.PrivateKey, parent *x509.Certificate, signer *ecdsa.PrivateKey) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return Pair{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}
