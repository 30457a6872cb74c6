package promapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

// failure is why a query failed. Its message is shown to people and never holds any of the answer.
type failure struct {
	reason  string // label of evenkeel_prometheus_query_failures_total
	message string
}

func (f *failure) Error() string { return f.message }

func failed(reason, format string, args ...any) *failure {
	return &failure{reason, fmt.Sprintf(format, args...)}
}

// The reasons of failed queries.
const (
	reasonSlots     = "slots"     // no slot in time
	reasonTimeout   = "timeout"   // no complete answer in time, or the server ran out of its own
	reasonConnect   = "connect"   // no connection
	reasonHTTP      = "http"      // the connection broke, or what answered does not speak HTTP
	reasonStatus    = "status"    // a status that the API does not give
	reasonQuery     = "query"     // the server refuses the query
	reasonExecution = "execution" // the server cannot evaluate the query
	reasonTooLarge  = "too_large" // more than Options.MaxBody
	reasonResults   = "results"   // more than Options.MaxResults
	reasonType      = "type"      // no instant vector
	reasonSyntax    = "syntax"    // not what the API answers
	reasonPanic     = "panic"     // a defect of ours or of a library
)

// asFailure puts an error of the API's client into our own words: its own quote what the server said.
func asFailure(err error, timeout time.Duration) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if e, ok := errors.AsType[*promv1.Error](err); ok {
		switch e.Type {
		case promv1.ErrBadData:
			return failed(reasonQuery, "the server refuses the query as malformed; try it in the server's own page")
		case promv1.ErrExec:
			return failed(reasonExecution, "the server cannot evaluate the query: too much to read, or results that clash; try it in the server's own page")
		case promv1.ErrTimeout, promv1.ErrCanceled:
			return failed(reasonTimeout, "the server gave the query up after %v", timeout)
		}
	}
	return failed(reasonSyntax, "the answer is not what the query API of Prometheus gives; is the URL its base, without /api/v1?")
}

// transportFailure puts an error of net/http into our own words. The URL is left out: it may hold a password.
func transportFailure(err error) *failure {
	var (
		dial        *net.OpError
		certificate *tls.CertificateVerificationError
		network     net.Error
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return failed(reasonTimeout, "no complete answer in time: half the interval, at most %v", longestTimeout)
	case errors.As(err, &certificate):
		return failed(reasonConnect, "TLS: %v", certificate.Err)
	case errors.As(err, &dial) && dial.Op == "dial":
		return failed(reasonConnect, "%v", dial)
	}
	return failed(reasonHTTP, "the connection broke, or what answered does not speak HTTP")
}
