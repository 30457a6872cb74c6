package xds

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// FleetHash is the cache key of a node: its node.cluster as it is, "<namespace>/<gateway>" or
// "eds:<namespace>". All nodes of a fleet are served the same bytes. It is a NodeHash of
// go-control-plane's cache.
//
// The reference rate limit service has a setting for its node.id and none for its node.cluster: one whose
// id is "rls", or begins with "rls/" so that several are told apart, is of the fleet translate.RLSFleet.
type FleetHash struct{}

// ID implements cache.NodeHash.
func (FleetHash) ID(n *corev3.Node) string {
	if first, _, _ := strings.Cut(n.GetId(), "/"); n.GetCluster() == "" && first == translate.RLSFleet {
		return translate.RLSFleet
	}
	return n.GetCluster()
}

const (
	maxNodeID  = 256
	maxCluster = 512 // two Kubernetes names and a separator fit with room
	maxFact    = 128 // any other text of a node; longer ones are cut
)

// grpcStreams is how many times more streams a gRPC client may have than an Envoy: it has one for each name
// that it dials (gRFC A71).
const grpcStreams = 16

// facts are what we keep of a Node, which is 61 KB for an Envoy: mostly the list of its extensions.
type facts struct {
	id, fleet, build, agent, zone string
	workers                       int
}

// grpc says whether the node is a gRPC client, which is served a rendering of its own.
func (f facts) grpc() bool { return strings.HasPrefix(f.agent, translate.GRPCAgents) }

// assumedWorkers stands in for what a node does not say of itself.
func (f facts) assumedWorkers() int {
	if f.grpc() {
		return 1
	}
	return 4
}

// cacheOf is the Cache that a node is served.
func (r *Registry) cacheOf(f facts) *snapshot.Cache { return r.cacheFor(f.grpc()) }

func (r *Registry) cacheFor(grpc bool) *snapshot.Cache {
	if grpc {
		return r.forGRPC
	}
	return r.cache
}

func factsOf(n *corev3.Node) (facts, error) {
	switch {
	case n.GetId() == "":
		return facts{}, errors.New("the first request of a stream must carry a node with an id")
	case len(n.GetId()) > maxNodeID:
		return facts{}, fmt.Errorf("node.id: %d bytes, expected at most %d", len(n.GetId()), maxNodeID)
	case len(n.GetCluster()) > maxCluster:
		return facts{}, fmt.Errorf("node.cluster: %d bytes, expected at most %d", len(n.GetCluster()), maxCluster)
	case hasUnprintable(n.GetId()):
		return facts{}, errors.New("node.id: expected printable characters")
	case hasUnprintable(n.GetCluster()):
		return facts{}, errors.New("node.cluster: expected printable characters")
	}
	build := n.GetUserAgentVersion()
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		build = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	return facts{
		id:      n.GetId(),
		fleet:   FleetHash{}.ID(n),
		build:   plain(build, maxFact),
		agent:   plain(n.GetUserAgentName(), maxFact),
		zone:    plain(n.GetLocality().GetZone(), maxFact),
		workers: workersOf(n),
	}, nil
}

// workersOf reads the number of workers, 0 if the node does not say or says nonsense.
func workersOf(n *corev3.Node) int {
	const most = 1024
	v := n.GetMetadata().GetFields()[translate.WorkersKey]
	workers := v.GetNumberValue()
	if s := v.GetStringValue(); s != "" {
		i, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		workers = float64(i)
	}
	if !(workers >= 1 && workers <= most) {
		return 0
	}
	return int(workers)
}

func hasUnprintable(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// plain makes a client's text safe to print on a terminal, in a log or on a page: at most limit
// bytes, valid UTF-8, a space for everything that does not print.
func plain(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), limit)], " "))
}
