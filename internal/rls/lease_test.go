package rls

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/internal/rlsconfig"
)

func leaseOf(tenant, id string) *ratelimitv3.RateLimitDescriptor {
	return desc("rule=shop/api/streams", "header:X-Tenant="+tenant, "lease="+id)
}

func released(tenant, id string) *ratelimitv3.RateLimitDescriptor {
	d := leaseOf(tenant, id)
	d.IsNegativeHits = true
	return d
}

// entry is one of an access log: of a request that goes on, or of its end. metadata is what its answer had.
func entry(kind accesslogv3.AccessLogType, id string, metadata *structpb.Struct) *accesslogv3.HTTPAccessLogEntry {
	e := &accesslogv3.HTTPAccessLogEntry{
		CommonProperties: &accesslogv3.AccessLogCommon{AccessLogType: kind},
		Request:          &accesslogv3.HTTPRequestProperties{RequestId: id},
	}
	if metadata != nil {
		e.CommonProperties.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{MetadataNamespace: metadata}}
	}
	return e
}

func (r *rig) log(kind accesslogv3.AccessLogType, id string, metadata *structpb.Struct, by *holder) {
	r.store.logs(r.t.Context(), edge, r.entries(edge, []*accesslogv3.HTTPAccessLogEntry{entry(kind, id, metadata)}), by, time.Now().UnixNano())
}

// sweepNow does what Run does every second.
func (r *rig) sweepNow() { r.sweep(r.t.Context(), 0, time.Now().UnixNano()) }

const (
	goesOn = accesslogv3.AccessLogType_DownstreamPeriodic
	isOver = accesslogv3.AccessLogType_DownstreamEnd
)

func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, streams(2))
		r.expect("first", r.ok(leaseOf("a", "1")), true)
		r.expect("second", r.ok(leaseOf("a", "2")), true)
		r.expect("third", r.ok(leaseOf("a", "3")), false)
		r.expect("the end of what was refused", r.ok(released("a", "3")), true)
		r.expect("fourth", r.ok(leaseOf("a", "4")), false)
		r.expect("the first again", r.ok(leaseOf("a", "1")), true)
		r.expect("another tenant", r.ok(leaseOf("b", "5")), true)
		r.ok(released("a", "1"))
		r.ok(released("a", "1"))
		r.expect("a fifth", r.ok(leaseOf("a", "6")), true)
		r.expect("a sixth", r.ok(leaseOf("a", "7")), false)
		r.log(isOver, "6", nil, nil)
		r.expect("held", r.held(), 2.0)
		r.expect("of a request that is over", r.ok(leaseOf("a", "6")), false)
		r.log(goesOn, "6", r.ask(leaseOf("a", "2")).DynamicMetadata, nil)
		r.expect("told that it goes on, after its end", r.held(), 2.0)
		time.Sleep(tombstoneTime)
		r.sweepNow()
		r.expect("a request of that name, later", r.ok(leaseOf("a", "6")), true)
	})
}

func TestLeasesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, streams(2))
		r.ask(leaseOf("a", "1"))
		metadata := r.ask(leaseOf("a", "2")).DynamicMetadata
		time.Sleep(leaseTime - time.Second)
		r.log(goesOn, "2", metadata, nil)
		time.Sleep(time.Second)
		r.sweepNow()
		r.expect("held", r.held(), 1.0)
		r.expect("expired", r.metric("evenkeel_rls_leases_ended_total", "reason=expired"), 1.0)
		r.expect("room again", r.ok(leaseOf("a", "3")), true)
		time.Sleep(leaseTime + tombstoneTime)
		r.sweepNow()
		r.expect("ids", r.leases.known.Load(), int64(0))
		r.expect("rebuilt", r.metric("evenkeel_rls_leases_rebuilt_total"), 0.0)
	})
}

// TestAProxyThatIsGone ends the leases of a proxy when its last stream has been broken for a time, and not before.
func TestAProxyThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, streams(5))
		name := proxyName{edge, "envoy-1"}
		one, two := r.proxies.opened(name), r.proxies.opened(name)
		by := &holder{}
		by.proxy.Store(&one.proxy)
		metadata := &structpb.Struct{Fields: map[string]*structpb.Value{
			MetadataLease: structpb.NewBoolValue(true), "shop/api/gone": structpb.NewBoolValue(true),
			"shop/api/streams": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("header:X-Tenant"), structpb.NewStringValue("a")}}),
		}}
		for i := range 7 {
			r.log(goesOn, fmt.Sprint(i), metadata, by)
		}
		r.expect("told of, past the bound", r.held(), 7.0)
		r.expect("one more", r.ok(leaseOf("a", "8")), false)
		later := func(d time.Duration, held float64) {
			t.Helper()
			time.Sleep(d)
			r.sweepNow()
			r.expect("held", r.held(), held)
		}
		r.proxies.closed(name, one, time.Now())
		later(grace, 7)
		r.proxies.closed(name, two, time.Now())
		later(grace-time.Second, 7)
		again := r.proxies.opened(name)
		later(grace, 7)
		r.proxies.closed(name, again, time.Now())
		later(grace, 0)
		r.expect("disconnected", r.metric("evenkeel_rls_leases_ended_total", "reason=disconnected"), 7.0)
		r.expect("proxies", len(r.proxies.known), 0)
	})
}

// TestLeasesAreBounded fills all there is.
func TestLeasesAreBounded(t *testing.T) {
	r := newRigWith(t, Options{MaxLeases: 100}, streams(1000))
	for i := range 200 {
		r.log(isOver, fmt.Sprint("over-", i), nil, nil)
	}
	r.expect("tombstones", r.leases.known.Load(), int64(50))
	for i := range 200 {
		r.ok(leaseOf("a", fmt.Sprint(i)))
		r.log(goesOn, fmt.Sprint("told-", i), r.ask(leaseOf("a", "0")).DynamicMetadata, nil)
	}
	r.expect("ids", r.leases.known.Load(), int64(100))
	r.expect("overflow", r.metric("evenkeel_rls_leases_overflow_total") >= 150+100, true)
	for i := range 200 {
		r.ok(released("a", fmt.Sprint(i)))
		r.log(isOver, fmt.Sprint("told-", i), nil, nil)
	}
	r.expect("held", r.held(), 0.0)
}

// TestLeasesOfSeveralLimits has a request hold two, and a change of rules take one of them away.
func TestLeasesOfSeveralLimits(t *testing.T) {
	r := newRig(t, streams(2), rate("all", 0, "", concurrent(1)))
	all := func(id string) *ratelimitv3.RateLimitDescriptor { return desc("rule=shop/api/all", "lease="+id) }
	answer := r.ask(leaseOf("a", "1"), all("1"))
	r.expect("told", len(answer.DynamicMetadata.Fields), 3)
	r.expect("refused by one", r.ok(leaseOf("b", "2"), all("2")), false)
	r.expect("held", r.held(), 2.0)
	r.Configure(edge, []*rlsconfig.Rule{streams(2)}, nil)
	r.log(isOver, "1", answer.DynamicMetadata, nil)
	r.expect("ended", r.metric("evenkeel_rls_leases_ended_total", "reason=logged"), 2.0)
	r.expect("held", r.held(), 0.0)
}
