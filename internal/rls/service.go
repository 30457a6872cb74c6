package rls

import (
	"context"
	"math"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/identity"
	"evenkeel.io/controlplane/internal/rls/gcra"
)

const (
	// maxDescriptors is how many descriptors of a request count; package rlsconfig makes far fewer.
	maxDescriptors = 256
	// maxHits is the most that one descriptor may add.
	maxHits = math.MaxUint32
)

// hit is one descriptor that counts.
type hit struct {
	described
	status   int // index of the descriptor
	bound    *bound
	key      key
	n        int64
	negative bool

	answer gcra.Answer // of a rate
	held   bool        // a lease was taken, or is held already
	fresh  bool        // it was taken by this call
}

// counts says whether a refusal of the hit refuses the request.
func (h *hit) counts() bool { return !h.variant.shadow }

func (h *hit) refused() bool { return !h.answer.Admitted }

// ShouldRateLimit answers for all descriptors of a request. The overall code is OVER_LIMIT if an enforced limit
// refuses.
func (s *Server) ShouldRateLimit(ctx context.Context, req *rlsv3.RateLimitRequest) (answer *rlsv3.RateLimitResponse, err error) {
	defer func() {
		if p := recover(); p != nil {
			answer, err = nil, s.panicked("ShouldRateLimit", p)
		}
	}()
	if who := s.client(ctx); !who.MaySee(req.GetDomain()) {
		s.metrics.errors.WithLabelValues("identity").Inc()
		return nil, status.Errorf(codes.PermissionDenied, "domain is %q: expected a fleet of this client, who is %s", short(req.GetDomain()), who)
	}
	return s.answer(ctx, req, time.Now().UnixNano())
}

// client is who calls.
func (s *Server) client(ctx context.Context) *identity.Identity {
	if s.opts.Auth == nil {
		return identity.Anyone
	}
	return auth.FromContext(ctx)
}

func (s *Server) panicked(where string, p any) error {
	s.metrics.panics.Inc()
	s.log.Error("panic in the rate limit service", "where", where, "panic", p, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "internal error; other calls are not affected")
}

var hitsPool = sync.Pool{New: func() any { return new([]hit) }}

func (s *Server) answer(ctx context.Context, req *rlsv3.RateLimitRequest, now int64) (*rlsv3.RateLimitResponse, error) {
	pooled := hitsPool.Get().(*[]hit)
	hits := s.hits(req, (*pooled)[:0])
	defer func() {
		clear(hits)
		*pooled = hits
		hitsPool.Put(pooled)
	}()
	if ctx.Err() != nil { // nobody waits, and nobody would end a lease
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	over, err := s.store.count(ctx, hits, now, true)
	if err != nil {
		s.metrics.errors.WithLabelValues("store").Inc()
		return nil, err
	}
	for i := range hits {
		hits[i].count()
	}
	return s.respond(req, hits, over), nil
}

// hits are the descriptors that count, with their bounds.
func (s *Server) hits(req *rlsv3.RateLimitRequest, hits []hit) []hit {
	d := s.domain(req.GetDomain())
	if d == nil {
		s.metrics.ignored(ignoredDomain, len(req.GetDescriptors()))
		return hits
	}
	for i, descriptor := range req.GetDescriptors() {
		if i == maxDescriptors {
			s.metrics.ignored(ignoredOverflow, len(req.GetDescriptors())-i)
			break
		}
		what, why := d.describe(descriptor.GetEntries())
		if why != "" {
			s.metrics.ignored(why, 1)
			continue
		}
		h := hit{described: what, status: i, negative: descriptor.GetIsNegativeHits(), n: int64(max(1, req.GetHitsAddend()))}
		if n := descriptor.GetHitsAddend(); n != nil {
			h.n = int64(min(n.GetValue(), maxHits))
		}
		if l := descriptor.GetLimit(); l != nil {
			h.bound = what.variant.stated(l)
		}
		if h.bound == nil {
			h.bound = what.variant.at(what.entries)
		}
		h.key = s.hasher.key(what.entries)
		hits = append(hits, h)
	}
	return hits
}

// count has the statistics know. The end of a request is not another one.
func (h *hit) count() {
	if h.negative {
		return
	}
	c := h.variant.counters
	c.requests.Add(1)
	if !h.refused() {
		return
	}
	if h.counts() {
		c.refused.Add(1)
	} else {
		c.shadowRefused.Add(1)
	}
	c.top.refuse(h.key, h.text)
}

// text is the key's values for people, such as "header:X-Tenant-ID=a, method=POST".
func (h *hit) text() string {
	var b strings.Builder
	for i, e := range h.entries {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(e.GetKey())
		b.WriteByte('=')
		b.WriteString(e.GetValue())
		if b.Len() > maxKeyText {
			break
		}
	}
	return short(b.String())
}

func short(s string) string {
	if len(s) > maxKeyText {
		s = s[:maxKeyText] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

func (s *Server) respond(req *rlsv3.RateLimitRequest, hits []hit, over bool) *rlsv3.RateLimitResponse {
	n := len(req.GetDescriptors())
	statuses := make([]rlsv3.RateLimitResponse_DescriptorStatus, n)
	answer := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK, Statuses: make([]*rlsv3.RateLimitResponse_DescriptorStatus, n)}
	for i := range statuses {
		statuses[i].Code = rlsv3.RateLimitResponse_OK
		answer.Statuses[i] = &statuses[i]
	}
	if over {
		answer.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	s.metrics.answered(over)
	for i := range hits {
		h := &hits[i]
		st := &statuses[h.status]
		if h.bound.unlimited || h.negative {
			continue
		}
		if h.refused() && h.counts() {
			st.Code = rlsv3.RateLimitResponse_OVER_LIMIT
			if r := h.variant.reply; r != nil && answer.RawBody == nil && answer.ResponseHeadersToAdd == nil {
				answer.RawBody, answer.ResponseHeadersToAdd = r.body, r.headers
			}
		}
		if h.variant.shadow {
			continue // what is not enforced is not announced
		}
		st.CurrentLimit = h.bound.status
		st.LimitRemaining = uint32(min(h.answer.Remaining, math.MaxUint32))
		if h.bound.status != nil {
			st.DurationUntilReset = seconds(h.answer.Reset)
		}
		if h.held {
			tell(answer, h)
		}
	}
	return answer
}

// seconds are whole, because Envoy leaves out what is below one: who comes back by retry-after shall not be
// early.
func seconds(d time.Duration) *durationpb.Duration {
	return &durationpb.Duration{Seconds: int64((d + time.Second - 1) / time.Second)}
}

// Dynamic metadata of a request that holds leases: Envoy puts it into its access logs under
// envoy.filters.http.ratelimit, so that each entry says by itself of which leases it speaks. Besides
// MetadataLease, by which entries can be selected, there is a list for each rule ID: names and values of the
// key's parts in turn.
const (
	MetadataNamespace = "envoy.filters.http.ratelimit"
	MetadataLease     = "lease"
)

func tell(answer *rlsv3.RateLimitResponse, h *hit) {
	if answer.DynamicMetadata == nil {
		answer.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{MetadataLease: structpb.NewBoolValue(true)}}
	}
	parts := make([]*structpb.Value, 0, 2*len(h.entries))
	for _, e := range h.entries {
		parts = append(parts, structpb.NewStringValue(e.GetKey()), structpb.NewStringValue(e.GetValue()))
	}
	answer.DynamicMetadata.Fields[h.variant.counters.id] = structpb.NewListValue(&structpb.ListValue{Values: parts})
}

// told are the entries that tell was called with.
func told(parts *structpb.ListValue) []*ratelimitv3.RateLimitDescriptor_Entry {
	values := parts.GetValues()
	entries := make([]*ratelimitv3.RateLimitDescriptor_Entry, 0, len(values)/2)
	for i := 0; i+1 < len(values); i += 2 {
		entries = append(entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: values[i].GetStringValue(), Value: values[i+1].GetStringValue()})
	}
	return entries
}
