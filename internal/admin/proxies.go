package admin

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/xds"
)

func (m moment) proxies(*http.Request) (any, error) {
	return ProxiesView{Proxies: m.proxyViews()}, nil
}

// proxyViews are sorted by fleet, then node.
func (m moment) proxyViews() []ProxyView {
	views := []ProxyView{}
	for _, p := range m.Proxies.Proxies() {
		view := ProxyView{
			Node: p.Node, Fleet: p.Fleet, Identity: p.Identity, Build: p.Build, Agent: p.Agent, Zone: p.Zone, Workers: p.Workers,
			Protocol: p.Protocol, Replica: p.Replica, ConnectedAt: timestamp(p.ConnectedAt), Types: map[string]TypeView{},
		}
		for t, state := range p.Types {
			view.Types[string(t)] = TypeView{
				State: state.State, Version: state.Version, Lag: Duration(m.lag(state)),
				Sent: state.Sent, Acked: state.Acked, Nacked: state.Nacked,
			}
		}
		if p.LastNack != nil {
			nack := nackView(*p.LastNack)
			view.LastNack = &nack
		}
		views = append(views, view)
	}
	slices.SortStableFunc(views, func(a, b ProxyView) int {
		return cmp.Or(cmp.Compare(a.Fleet, b.Fleet), cmp.Compare(a.Node, b.Node))
	})
	return views
}

// lag is how long a node has owed an acknowledgement.
func (m moment) lag(t xds.TypeState) time.Duration {
	if t.State != xds.Pending && t.State != xds.Nacked || t.SentAt.IsZero() {
		return 0
	}
	return max(0, m.now.Sub(t.SentAt))
}

// Subscribed reports whether the node ever asked for the type.
func (t TypeView) Subscribed() bool { return t.State != "" && t.State != xds.NotSubscribed }

// InSync reports whether the proxy acknowledged everything that it subscribed to.
func (p ProxyView) InSync() bool {
	for _, t := range p.Types {
		switch t.State {
		case xds.Pending, xds.Nacked, xds.NoFleet:
			return false
		}
	}
	return true
}

func (m moment) nacks(*http.Request) (any, error) {
	view := NacksView{Nacks: []NackView{}}
	for _, n := range m.Proxies.Nacks() {
		view.Nacks = append(view.Nacks, nackView(n))
	}
	slices.SortStableFunc(view.Nacks, func(a, b NackView) int { return newestFirst(a.At, b.At) })
	return view, nil
}

func nackView(n xds.Nack) NackView {
	return NackView{
		At: timestamp(n.At), Node: n.Node, Fleet: n.Fleet, Type: string(n.Type), Nonce: n.Nonce, Version: n.Version,
		Message: n.Message, Resource: n.Resource, Source: n.Source, Instead: n.Instead, Count: n.Count,
	}
}

// newestFirst compares for a sort; what has no time comes last.
func newestFirst(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return b.Compare(*a)
}
