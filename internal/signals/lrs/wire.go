package lrs

import (
	"errors"
	"math"
	"net/netip"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is an envoy.service.load_stats.v3.LoadStatsRequest, of which it decodes the parts below from
// the wire. An Envoy repeats its Node, a list of its extensions mostly, in every report: 61 KB in front
// of some hundred bytes. To step over it is a matter of its length. A message is reused by its stream.
//
// What a decoder of the whole message would accept, it accepts with the same outcome, but for what
// exceeds the bounds; in what it steps over it accepts more.
type message struct {
	node     *node // nil: not wanted, or not decoded yet
	clusters []cluster
	// endpoints of all clusters, those of one next to each other.
	endpoints []endpointStats
	// refused is why nothing of the message counts, nil if it does.
	refused error
}

// node is who reports.
type node struct {
	id, fleet string
	// sendsAll: it understands send_all_clusters.
	sendsAll bool
}

// cluster is a ClusterStats.
type cluster struct {
	name, service string // service is the EDS service name, "" if there is none
	interval      time.Duration
	first, end    int // in message.endpoints
}

// endpointStats is an UpstreamEndpointStats: counts over the cluster's interval, and a gauge.
type endpointStats struct {
	address                           netip.AddrPort // not valid: none that we have
	succeeded, failed, issued, active uint64
}

// The bounds of a report.
const (
	maxClusters  = 10_000
	maxEndpoints = 50_000
	maxName      = 1024
	maxAddress   = 64 // an IPv6 address with a zone
)

var (
	errMalformed = errors.New("not a load report")
	errTooLarge  = errors.New("more clusters, endpoints or longer names than a load report may have")
)

const sendsAllClusters = "envoy.lrs.supports_send_all_clusters"

// UnmarshalWire decodes a message. It always succeeds: a report that cannot be used is dropped, and its
// stream goes on.
func (m *message) UnmarshalWire(data []byte) error {
	m.clusters, m.endpoints = m.clusters[:0], m.endpoints[:0]
	if m.refused = m.decode(data); m.refused != nil {
		m.clusters, m.endpoints = m.clusters[:0], m.endpoints[:0]
	}
	return nil
}

func (m *message) decode(data []byte) error {
	return eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.BytesType) && m.node != nil:
			return m.node.decode(f.bytes)
		case f.is(2, protowire.BytesType):
			return m.decodeCluster(f.bytes)
		}
		return nil
	})
}

func (n *node) decode(data []byte) error {
	return eachField(data, func(f field) (err error) {
		switch {
		case f.is(1, protowire.BytesType):
			n.id, err = f.text()
		case f.is(2, protowire.BytesType):
			n.fleet, err = f.text()
		case f.is(10, protowire.BytesType):
			n.sendsAll = n.sendsAll || string(f.bytes) == sendsAllClusters
		}
		return err
	})
}

func (m *message) decodeCluster(data []byte) error {
	if len(m.clusters) == maxClusters {
		return errTooLarge
	}
	c := cluster{first: len(m.endpoints)}
	var seconds, nanos int64
	err := eachField(data, func(f field) (err error) {
		switch {
		case f.is(1, protowire.BytesType):
			c.name, err = f.text()
		case f.is(2, protowire.BytesType):
			err = m.decodeLocality(f.bytes)
		case f.is(4, protowire.BytesType):
			err = eachField(f.bytes, func(f field) error {
				switch {
				case f.is(1, protowire.VarintType):
					seconds = int64(f.varint)
				case f.is(2, protowire.VarintType):
					nanos = int64(int32(f.varint))
				}
				return nil
			})
		case f.is(6, protowire.BytesType):
			c.service, err = f.text()
		}
		return err
	})
	if err != nil {
		return err
	}
	c.interval = duration(seconds, nanos)
	c.end = len(m.endpoints)
	m.clusters = append(m.clusters, c)
	return nil
}

// duration is a google.protobuf.Duration, within a century: nobody reports that seldom.
func duration(seconds, nanos int64) time.Duration {
	const century = 100 * 365 * 24 * 3600
	return time.Duration(min(century, max(-century, seconds)))*time.Second + time.Duration(nanos)
}

func (m *message) decodeLocality(data []byte) error {
	return eachField(data, func(f field) error {
		if !f.is(7, protowire.BytesType) {
			return nil
		}
		if len(m.endpoints) == maxEndpoints {
			return errTooLarge
		}
		e, err := decodeEndpoint(f.bytes)
		m.endpoints = append(m.endpoints, e)
		return err
	})
}

func decodeEndpoint(data []byte) (e endpointStats, err error) {
	var a socketAddress
	err = eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.BytesType):
			return a.decode(f.bytes)
		case f.is(2, protowire.VarintType):
			e.succeeded = f.varint
		case f.is(3, protowire.VarintType):
			e.active = f.varint
		case f.is(4, protowire.VarintType):
			e.failed = f.varint
		case f.is(7, protowire.VarintType):
			e.issued = f.varint
		}
		return nil
	})
	e.address = a.parse()
	return e, err
}

// socketAddress is an Address of that kind; host is nil in one of any other.
type socketAddress struct {
	host []byte
	port uint32
}

func (a *socketAddress) decode(data []byte) error {
	return eachField(data, func(f field) error {
		if !f.is(1, protowire.BytesType) {
			if f.is(2, protowire.BytesType) || f.is(3, protowire.BytesType) {
				*a = socketAddress{} // a pipe or an internal listener
			}
			return nil
		}
		return eachField(f.bytes, func(f field) error {
			switch {
			case f.is(2, protowire.BytesType):
				if _, err := f.bounded(maxAddress); err != nil {
					return err
				}
				a.host = f.bytes
			case f.is(3, protowire.VarintType):
				a.port = uint32(f.varint)
			case f.is(4, protowire.BytesType):
				a.port = 0 // a port by name
			}
			return nil
		})
	})
}

func (a socketAddress) parse() netip.AddrPort {
	if len(a.host) == 0 || a.port == 0 || a.port > math.MaxUint16 {
		return netip.AddrPort{}
	}
	ip, err := netip.ParseAddr(string(a.host))
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, uint16(a.port))
}

// field is one field of a message on the wire. bytes point into the message.
type field struct {
	number protowire.Number
	kind   protowire.Type
	varint uint64
	bytes  []byte
}

// is holds of a field of that number. Of another type than the number's it is an unknown one.
func (f field) is(number protowire.Number, kind protowire.Type) bool {
	return f.number == number && f.kind == kind
}

func (f field) text() (string, error) {
	b, err := f.bounded(maxName)
	return string(b), err
}

func (f field) bounded(most int) ([]byte, error) {
	switch {
	case len(f.bytes) > most:
		return nil, errTooLarge
	case !utf8.Valid(f.bytes):
		return nil, errMalformed
	}
	return f.bytes, nil
}

// eachField calls do with the fields of a message in their order.
func eachField(data []byte, do func(field) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errMalformed
		}
		data = data[n:]
		f := field{number: number, kind: kind}
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return errMalformed
		}
		if err := do(f); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
