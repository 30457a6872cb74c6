package promapi

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// server is a Prometheus server and the slots for asking it. It is safe for concurrent use.
type server struct {
	api   promv1.API
	slots chan struct{}
	shown string // the URL for people, without user and password
}

func newServer(base *url.URL, client *http.Client, o Options) *server {
	shown := *base
	shown.User = nil
	return &server{
		api:   promv1.NewAPI(&boundedClient{base: base, http: client, maxBody: o.MaxBody}),
		slots: make(chan struct{}, o.Slots),
		shown: shown.String(),
	}
}

// newHTTPClient is shared by all servers. Redirects are not followed: they would carry the query, and
// with it the names of endpoints, to where the operator has not sent it.
func newHTTPClient(o Options) *http.Client {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            o.Dial,
		MaxIdleConnsPerHost:    o.Slots,
		IdleConnTimeout:        5 * time.Minute, // longer than the longest interval
		TLSHandshakeTimeout:    longestTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// boundedClient is an api.Client that reads so much of an answer and no more.
type boundedClient struct {
	base    *url.URL
	http    *http.Client
	maxBody int64
}

// URL is where an endpoint of the API is.
func (c *boundedClient) URL(endpoint string, _ map[string]string) *url.URL {
	u := *c.base
	u.Path = path.Join("/", u.Path, endpoint)
	return &u
}

// Do sends a request and reads the answer, if its status is one that the API gives.
func (c *boundedClient) Do(ctx context.Context, request *http.Request) (*http.Response, []byte, error) {
	request.Header.Set("User-Agent", "evenkeel")
	response, err := c.http.Do(request.WithContext(ctx))
	if err != nil {
		return nil, nil, broken(ctx, err)
	}
	defer response.Body.Close()
	switch code := response.StatusCode; {
	case code >= 300 && code < 400:
		return response, nil, failed(reasonStatus, "answered %d %s: redirects are not followed, give serve the final URL", code, http.StatusText(code))
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return response, nil, failed(reasonStatus, "answered %d %s: a user and password can stand in the URL that serve is given", code, http.StatusText(code))
	case code != http.StatusOK && code != http.StatusBadRequest && code != http.StatusUnprocessableEntity:
		return response, nil, failed(reasonStatus, "answered %d %s, expected 200 OK", code, http.StatusText(code))
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, c.maxBody+1))
	switch {
	case err != nil:
		return response, nil, broken(ctx, err)
	case int64(len(body)) > c.maxBody:
		return response, nil, failed(reasonTooLarge, "the answer is larger than %d bytes: aggregate by (namespace, pod) or by instance", c.maxBody)
	}
	return response, body, nil
}

// broken is a failure of the connection.
func broken(ctx context.Context, err error) *failure {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return transportFailure(err)
}

// answer is what the server said to one query.
type answer struct {
	term    term
	results model.Vector
	// warned: the server says that the answer may be incomplete or is doubtful in another way.
	warned  bool
	failure *failure
	at      time.Time // when it was asked
	took    time.Duration
}

// query sends a query that is evaluated at a given time. It never panics: a defect that one answer brings
// out stays with its query. The context bounds the whole of it; timeout is its duration.
func (m *Manager) query(ctx context.Context, s *server, q query, evaluate time.Time, timeout time.Duration) (a answer) {
	a = answer{term: q.term, at: time.Now()}
	defer func() {
		if recover() != nil {
			// The stack alone: the cause may quote the answer.
			m.options.Logger.Error("panic in a query", "server", s.shown, "term", q.term, "stack", string(debug.Stack()))
			a.results, a.failure = nil, failed(reasonPanic, "internal error, see the log")
		}
		a.took = time.Since(a.at)
	}()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		a.failure = failed(reasonSlots, "the server answers too slowly: %d queries at once were under way for %v", cap(s.slots), timeout)
		return a
	}
	value, warnings, err := s.api.Query(ctx, q.text, evaluate,
		promv1.WithTimeout(timeout), promv1.WithLimit(uint64(m.options.MaxResults)+1))
	a.warned = len(warnings) > 0
	if err != nil {
		a.failure = asFailure(err, timeout)
		return a
	}
	vector, ok := value.(model.Vector)
	switch {
	case !ok:
		a.failure = failed(reasonType, "the query does not give an instant vector")
	case len(vector) > m.options.MaxResults:
		a.failure = failed(reasonResults, "more than %d results: aggregate by (namespace, pod) or by instance", m.options.MaxResults)
	default:
		a.results = vector
	}
	return a
}
