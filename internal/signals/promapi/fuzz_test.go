package promapi

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

// says is an api.Client that gets one answer to everything.
type says struct {
	status int
	body   string
}

func (s says) URL(string, map[string]string) *url.URL { return &url.URL{Scheme: "http", Host: "main"} }
func (s says) Do(context.Context, *http.Request) (*http.Response, []byte, error) {
	return &http.Response{StatusCode: s.status}, []byte(s.body), nil
}

// FuzzAnswer: whatever a server says is a failure in our own words or readings of finite, sane values.
func FuzzAnswer(f *testing.F) {
	f.Add(vector(instance(a, "1"), instance(b, "NaN"), pod("cart-1", "-Inf")), true)
	f.Add(vector(instance(a, "1e308"), pod("cart-1", "1e15")), true)
	f.Add(success("scalar", []any{1.5, "1"}), true)
	f.Add(`{"status":"error","errorType":"bad_data","error":"no"}`, false)
	f.Add(`{"status":"success","data":{"resultType":"vector","result":[{"metric":null,"value":[1,"1e308"]}]}}`, true)
	f.Add(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"instance":"`+a+`"},"histogram":[1,{"count":"1","sum":"NaN"}]}]}}`, true)
	f.Fuzz(func(t *testing.T, body string, ok bool) {
		status := http.StatusOK
		if !ok {
			status = http.StatusBadRequest
		}
		m := New(Options{MaxResults: 100})
		s := &server{api: promv1.NewAPI(says{status, body}), slots: make(chan struct{}, 1)}
		spec := specOf("shop/cart:80", Endpoint{Address: a, CPULimit: 1e-300}, Endpoint{Address: b, Pod: "shop/cart-1"})
		spec.Prometheus.Queries.CPU = nil
		p, v := newPlan(spec, nil), values{}
		for _, q := range p.queries {
			answer := m.query(t.Context(), s, q, time.Unix(1, 0), time.Second)
			if failure := answer.failure; failure != nil {
				if failure.reason == reasonPanic {
					t.Errorf("panic, see the log")
				}
				if len(body) > 8 && strings.Contains(failure.message, body) {
					t.Errorf("the error quotes the answer: %s", failure.message)
				}
			}
			p.take(answer, v)
		}
		for _, r := range p.readings(v, time.Unix(1, 0)) {
			for _, x := range []float64{r.Done, r.Failed, r.CPU, r.InFlight, r.P50.Seconds(), r.P90.Seconds()} {
				if !(x >= 0 && x <= math.MaxFloat64) {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}
