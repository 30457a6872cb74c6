package snapshot

import (
	"fmt"
	"testing"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/translate"
)

// BenchmarkEncode is the cost of a resource that is new and of one that turns out to be the same.
func BenchmarkEncode(b *testing.B) {
	s := &catalog.Service{Name: "shop/a:80"}
	l := catalog.Listener{Name: "shop/edge/80", Port: 80, VirtualHosts: []catalog.VirtualHost{{Domain: "*"}}}
	for i := range 1000 {
		s.Endpoints = append(s.Endpoints, catalog.Endpoint{Address: fmt.Sprintf("10.0.%d.%d:80", i/250, i%250), Base: 1, Multiplier: 1})
		l.VirtualHosts[0].Routes = append(l.VirtualHosts[0].Routes, catalog.Route{
			Name: fmt.Sprint("shop/web/0/", i), Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: fmt.Sprint("/p", i)}},
			Backends: []catalog.Backend{{Service: "shop/a:80", Weight: 1}},
		})
	}
	for _, r := range append(translate.Fleet(&catalog.Fleet{Listeners: []catalog.Listener{l}}, translate.Options{}), translate.Assignment(s, nil)) {
		if r.Type != translate.RDS && r.Type != translate.EDS {
			continue
		}
		before, err := Encode(r)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("new "+string(r.Type)+" of 1000", func(b *testing.B) {
			for b.Loop() {
				Encode(r)
			}
		})
		b.Run("same "+string(r.Type)+" of 1000", func(b *testing.B) {
			for b.Loop() {
				EncodeAfter(before, r)
			}
		})
	}
}
