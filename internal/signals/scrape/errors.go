package scrape

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// failure is why a scrape failed. Its message is shown to people and never holds any of the body:
// pages carry what their owners put into them.
type failure struct {
	reason  string // label of evenkeel_scrape_failures_total
	message string
}

func (f *failure) Error() string { return f.message }

func failed(reason, format string, args ...any) *failure {
	return &failure{reason, fmt.Sprintf(format, args...)}
}

// The reasons of failed scrapes.
const (
	reasonTimeout     = "timeout"      // no complete answer in time
	reasonConnect     = "connect"      // no connection
	reasonAddress     = "address"      // an address that must not be scraped
	reasonURL         = "url"          // not an http or https URL
	reasonHTTP        = "http"         // the connection broke, or what answered does not speak HTTP
	reasonStatus      = "status"       // a status other than 200
	reasonRedirect    = "redirect"     // a redirect
	reasonContentType = "content_type" // a format that is not read
	reasonEncoding    = "encoding"     // a Content-Encoding that is not read, or broken
	reasonTooLarge    = "too_large"    // more than Options.MaxBody
	reasonSamples     = "samples"      // more than Options.MaxSamples
	reasonTruncated   = "truncated"    // the body ends in the middle
	reasonSyntax      = "syntax"       // the body is not what its content type says
	reasonPanic       = "panic"        // a defect of ours
)

// errRefusedAddress is what a dial returns for an address that must not be scraped.
var errRefusedAddress = errors.New("loopback and link-local addresses are not scraped")

// transportFailure puts an error of net/http into our own words. Only errors that arise before a
// byte of the answer is read, or that quote none, pass through.
func transportFailure(err error, timeout time.Duration) *failure {
	var (
		dial        *net.OpError
		certificate *tls.CertificateVerificationError
		network     net.Error
	)
	switch {
	case errors.Is(err, errRefusedAddress):
		return failed(reasonAddress, "%v", errRefusedAddress)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return failed(reasonTimeout, "no complete answer in %v", timeout)
	case errors.As(err, &certificate):
		return failed(reasonConnect, "TLS: %v", certificate.Err)
	case errors.As(err, &dial) && dial.Op == "dial":
		return failed(reasonConnect, "%v", dial)
	}
	return failed(reasonHTTP, "the connection broke, or what answered does not speak HTTP")
}
