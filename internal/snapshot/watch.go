package snapshot

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"evenkeel.io/controlplane/internal/translate"
)

// watch is a request of go-control-plane's server that waits for something to be newer than what its
// client has.
type watch struct {
	node    *corev3.Node
	isDelta bool
	since   time.Time
	// answer sends what s has for the client, if there is anything, and says whether it did.
	answer func(s *Snapshot) bool
}

// CreateWatch implements cache.ConfigWatcher for go-control-plane's server.
func (c *Cache) CreateWatch(req *cache.Request, sub cache.Subscription, value chan cache.Response) (func(), error) {
	known := req.GetVersionInfo()
	return c.watch(c.hash.ID(req.GetNode()), &watch{node: req.GetNode(), answer: func(s *Snapshot) bool {
		table := s.Table(translate.TypeOf(req.GetTypeUrl()))
		names := wantedOf(table, sub)
		news := table.Version() != known
		for _, name := range names {
			if _, had := sub.ReturnedResources()[name]; !had && table.Get(name) != nil {
				news = true
			}
		}
		if !news {
			return false
		}
		resp := &discoveryv3.DiscoveryResponse{VersionInfo: table.Version(), TypeUrl: req.GetTypeUrl()}
		returned := map[string]string{}
		for _, name := range names {
			if r := table.Get(name); r != nil {
				resp.Resources = append(resp.Resources, &anypb.Any{TypeUrl: req.GetTypeUrl(), Value: r.Bytes})
				returned[name] = table.Version()
			}
		}
		value <- &cache.PassthroughResponse{Request: req, DiscoveryResponse: resp, ReturnedResources: returned}
		return true
	}}), nil
}

// CreateDeltaWatch implements cache.ConfigWatcher for go-control-plane's server.
func (c *Cache) CreateDeltaWatch(req *cache.DeltaRequest, sub cache.Subscription, value chan cache.DeltaResponse) (func(), error) {
	first := req.GetResponseNonce() == ""
	return c.watch(c.hash.ID(req.GetNode()), &watch{node: req.GetNode(), isDelta: true, answer: func(s *Snapshot) bool {
		table := s.Table(translate.TypeOf(req.GetTypeUrl()))
		resp := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: table.Version(), TypeUrl: req.GetTypeUrl()}
		next := map[string]string{}
		for _, name := range wantedOf(table, sub) {
			r := table.Get(name)
			if r == nil {
				continue
			}
			next[name] = r.Version
			if sub.ReturnedResources()[name] != r.Version {
				resp.Resources = append(resp.Resources, &discoveryv3.Resource{
					Name: name, Version: r.Version, Resource: &anypb.Any{TypeUrl: req.GetTypeUrl(), Value: r.Bytes},
				})
			}
		}
		for name := range sub.ReturnedResources() {
			if table.Get(name) == nil {
				resp.RemovedResources = append(resp.RemovedResources, name)
			}
		}
		if len(resp.Resources)+len(resp.RemovedResources) == 0 && !(first && sub.IsWildcard()) {
			return false
		}
		value <- &cache.DeltaPassthroughResponse{DeltaRequest: req, DeltaDiscoveryResponse: resp, NextVersionMap: next}
		return true
	}}), nil
}

// wantedOf are the names that a subscription asks for, of those in the table or named.
func wantedOf(table *Table, sub cache.Subscription) []string {
	var names []string
	if sub.IsWildcard() {
		for name := range table.All() {
			names = append(names, name)
		}
		return names
	}
	for name := range sub.SubscribedResources() {
		names = append(names, name)
	}
	return names
}

// watch answers at once or keeps w until it can.
func (c *Cache) watch(key string, w *watch) (cancel func()) {
	w.since = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.current[key]; s != nil && w.answer(s) {
		return func() {}
	}
	c.nextID++
	id := c.nextID
	if c.watches[key] == nil {
		c.watches[key] = map[uint64]*watch{}
	}
	c.watches[key][id] = w
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unwatch(key, id)
	}
}

func (c *Cache) unwatch(key string, id uint64) {
	if delete(c.watches[key], id); len(c.watches[key]) == 0 {
		delete(c.watches, key)
	}
}

// Fetch implements cache.ConfigFetcher: what the node is to be served, all of it or the resources named.
func (c *Cache) Fetch(_ context.Context, req *cache.Request) (cache.Response, error) {
	s := c.Current(c.hash.ID(req.GetNode()))
	if s == nil {
		return nil, fmt.Errorf("no snapshot of %q", c.hash.ID(req.GetNode()))
	}
	table := s.Table(translate.TypeOf(req.GetTypeUrl()))
	if req.GetVersionInfo() == table.Version() {
		return nil, &types.SkipFetchError{}
	}
	resp := &discoveryv3.DiscoveryResponse{VersionInfo: table.Version(), TypeUrl: req.GetTypeUrl()}
	for name, r := range table.All() {
		if len(req.GetResourceNames()) == 0 || slices.Contains(req.GetResourceNames(), name) {
			resp.Resources = append(resp.Resources, &anypb.Any{TypeUrl: req.GetTypeUrl(), Value: r.Bytes})
		}
	}
	return &cache.PassthroughResponse{Request: req, DiscoveryResponse: resp}, nil
}

// GetStatusInfo tells of the open watches of a key, nil if it has none: nothing is kept of nodes that left.
func (c *Cache) GetStatusInfo(key string) cache.StatusInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.watches[key]) == 0 {
		return nil
	}
	info := statusInfo{}
	for _, w := range c.watches[key] {
		info.node = w.node
		if w.isDelta {
			info.deltas++
			info.lastDelta = later(info.lastDelta, w.since)
		} else {
			info.watches++
			info.last = later(info.last, w.since)
		}
	}
	return info
}

// GetStatusKeys are the keys with open watches.
func (c *Cache) GetStatusKeys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := make([]string, 0, len(c.watches))
	for key := range c.watches {
		keys = append(keys, key)
	}
	return keys
}

// statusInfo is a cache.StatusInfo.
type statusInfo struct {
	node            *corev3.Node
	watches, deltas int
	last, lastDelta time.Time
}

func (s statusInfo) GetNode() *corev3.Node                   { return s.node }
func (s statusInfo) GetNumWatches() int                      { return s.watches }
func (s statusInfo) GetNumDeltaWatches() int                 { return s.deltas }
func (s statusInfo) GetLastWatchRequestTime() time.Time      { return s.last }
func (s statusInfo) GetLastDeltaWatchRequestTime() time.Time { return s.lastDelta }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
