package scrape

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
)

// accept asks for the two formats that are read, protobuf first: it alone carries native histograms.
// A server that negotiates by these types never answers in OpenMetrics.
const accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7," +
	"text/plain;version=0.0.4;q=0.3,*/*;q=0.1"

// fetcher gets pages over HTTP: GET alone, no redirects, no proxies, bodies bounded after
// decompression. It is safe for concurrent use.
type fetcher struct {
	client  *http.Client
	maxBody int64
	buffers sync.Pool // of *bytes.Buffer
	gzips   sync.Pool // of *gzip.Reader
}

func newFetcher(o Options) *fetcher {
	dial := o.Dial
	if dial == nil {
		d := &net.Dialer{}
		if !o.AllowLoopback {
			d.Control = refuseLocal
		}
		dial = d.DialContext
	}
	return &fetcher{
		client: &http.Client{
			Transport: &http.Transport{
				DialContext:            dial,
				TLSClientConfig:        o.TLS,
				DisableCompression:     true, // decompressed here, where the result is bounded
				MaxIdleConnsPerHost:    2,
				IdleConnTimeout:        2 * time.Minute, // longer than the longest interval
				MaxResponseHeaderBytes: 64 << 10,
				// There is a connection for each target, and the body is read past these.
				ReadBufferSize: 4 << 10, WriteBufferSize: 1 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		maxBody: o.MaxBody,
	}
}

// refuseLocal is a net.Dialer's Control. It sees the address after name resolution, so a name that
// resolves to a local address is refused too. The unspecified address reaches the local host as well.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: %w", address, err)
	}
	ip := to.Addr().Unmap()
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsUnspecified() {
		return errRefusedAddress
	}
	return nil
}

// page is a fetched body. release gives its memory back; nothing may refer to body afterwards.
type page struct {
	body   []byte
	format expfmt.FormatType // protobuf or text
	// at is when the answer began to arrive: exporters take their values before they write the
	// first byte, and a slow body must not stretch the window.
	at     time.Time
	buffer *bytes.Buffer
}

// fetch gets the page at url. The context bounds the whole of it, a slowly dripping body included;
// timeout is its duration, for the message.
func (f *fetcher) fetch(ctx context.Context, url string, timeout time.Duration) (*page, *failure) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil || request.URL.Host == "" || request.URL.Scheme != "http" && request.URL.Scheme != "https" {
		return nil, failed(reasonURL, "%q is not an http or https URL", url)
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("Accept-Encoding", "gzip")
	request.Header.Set("User-Agent", "evenkeel")
	request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(timeout.Seconds(), 'f', -1, 64))

	response, err := f.client.Do(request)
	if err != nil {
		return nil, transportFailure(err, timeout)
	}
	defer response.Body.Close()
	at := time.Now()

	switch code := response.StatusCode; {
	case code >= 300 && code < 400:
		return nil, failed(reasonRedirect, "answered %d %s: redirects are not followed, name the final URL", code, http.StatusText(code))
	case code != http.StatusOK:
		return nil, failed(reasonStatus, "answered %d %s, expected 200 OK", code, http.StatusText(code))
	}
	format, fail := formatOf(response.Header)
	if fail != nil {
		return nil, fail
	}
	if response.ContentLength > f.maxBody {
		return nil, f.tooLarge()
	}
	buffer, fail := f.read(response, timeout)
	if fail != nil {
		return nil, fail
	}
	return &page{body: buffer.Bytes(), format: format, at: at, buffer: buffer}, nil
}

func (f *fetcher) tooLarge() *failure {
	return failed(reasonTooLarge, "the page is larger than %d bytes", f.maxBody)
}

func formatOf(h http.Header) (expfmt.FormatType, *failure) {
	switch format := expfmt.ResponseFormat(h).FormatType(); format {
	case expfmt.TypeProtoDelim, expfmt.TypeTextPlain:
		return format, nil
	}
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	switch {
	case err != nil || len(media) > 100:
		return 0, failed(reasonContentType, "the answer has no usable Content-Type, expected Prometheus text 0.0.4 or delimited protobuf")
	case media == expfmt.OpenMetricsType:
		return 0, failed(reasonContentType, "answered OpenMetrics although only Prometheus text 0.0.4 and delimited protobuf were asked for; "+
			"OpenMetrics is not read, let the target negotiate the format")
	}
	return 0, failed(reasonContentType, "answered %s, expected Prometheus text 0.0.4 or delimited protobuf", media)
}

// read reads the body, decompressed, into a buffer of at most maxBody bytes.
func (f *fetcher) read(response *http.Response, timeout time.Duration) (*bytes.Buffer, *failure) {
	var body io.Reader = response.Body
	compressed := false
	switch encoding := response.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		compressed = true
		z, _ := f.gzips.Get().(*gzip.Reader)
		if z == nil {
			z = new(gzip.Reader)
		}
		defer f.gzips.Put(z)
		if err := z.Reset(response.Body); err != nil {
			return nil, bodyFailure(err, compressed, timeout)
		}
		body = z
	default:
		return nil, failed(reasonEncoding, "the answer has a Content-Encoding other than gzip")
	}

	buffer, _ := f.buffers.Get().(*bytes.Buffer)
	if buffer == nil {
		buffer = bytes.NewBuffer(make([]byte, 0, 32<<10))
	}
	buffer.Reset()
	n, err := buffer.ReadFrom(io.LimitReader(body, f.maxBody+1))
	switch {
	case err != nil:
		f.release(buffer)
		return nil, bodyFailure(err, compressed, timeout)
	case n > f.maxBody:
		f.release(buffer)
		return nil, f.tooLarge()
	}
	return buffer, nil
}

// release takes a buffer back, unless a rare large page has grown it: 256 of those would stay.
func (f *fetcher) release(b *bytes.Buffer) {
	if b.Cap() <= 256<<10 {
		f.buffers.Put(b)
	}
}

func bodyFailure(err error, compressed bool, timeout time.Duration) *failure {
	var corrupt interface{ Timeout() bool }
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &corrupt) && corrupt.Timeout():
		return transportFailure(context.DeadlineExceeded, timeout)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return failed(reasonTruncated, "the answer ends before its body is complete")
	case compressed:
		return failed(reasonEncoding, "the body is not valid gzip, or the connection broke")
	}
	return failed(reasonTruncated, "the connection broke before the body was complete")
}
