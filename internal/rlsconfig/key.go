package rlsconfig

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ipv6Bits is how much of an IPv6 address stands for a client: one that has any has 2^64 of them.
const ipv6Bits = 64

// part is a part of a key.
type part struct {
	text string // as the key has it
	kind string // "header", "query", "ip", "method", "path", "route", "namespace" or "cel"
	arg  string // what comes after the colon
	bits int    // of an IPv4 address
}

func parseKey(key []string) ([]part, error) {
	var parts []part
	for i, text := range key {
		p, err := parsePart(text)
		if err != nil {
			return nil, fmt.Errorf("key[%d]: %w", i, err)
		}
		if strings.HasSuffix(text, "*") {
			return nil, fmt.Errorf("key[%d]: %q ends with a star, which the reference rate limit service takes for any ending", i, text)
		}
		for j, other := range parts {
			if p.same(other) {
				return nil, fmt.Errorf("key[%d]: %q is key[%d] again", i, text, j)
			}
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func parsePart(text string) (part, error) {
	kind, arg, hasArg := strings.Cut(text, ":")
	p := part{text: text, kind: kind, arg: arg, bits: 32}
	switch kind {
	case "header", "query", "namespace", "cel":
		if arg == "" {
			return p, fmt.Errorf("%q: expected a name or an expression after the colon", text)
		}
		return p, nil
	case "method", "path", "route":
		if !hasArg {
			return p, nil
		}
	case "claim":
		return p, fmt.Errorf("%q: claims cannot be trusted before JWTs are verified, which Gateways here do not do yet; expected another part", text)
	default:
		bits, isIP := "32", text == "ip"
		if n, ok := strings.CutPrefix(text, "ip/"); ok {
			bits, isIP = n, true
		}
		if !isIP {
			break
		}
		p.kind, p.arg = "ip", ""
		n, err := strconv.Atoi(bits)
		if err != nil || n < 8 || n > 32 || bits != strconv.Itoa(n) {
			return p, fmt.Errorf("%q: expected ip, or ip/N with an N of 8 to 32", text)
		}
		p.bits = n
		return p, nil
	}
	return p, fmt.Errorf("%q: expected header:NAME, query:NAME, ip, ip/N, method, path, route, namespace:LABEL or cel:EXPRESSION", text)
}

func (p part) same(o part) bool {
	return p.kind == o.kind && p.bits == o.bits && (p.arg == o.arg || p.kind == "header" && strings.EqualFold(p.arg, o.arg))
}

// entry is the name of the part's descriptor entry.
func (p part) entry() string {
	if p.kind == "ip" {
		return EntryAddress
	}
	return p.text
}

// called says whether a ValueLimit means this part: by the whole of it, or by what comes after its colon.
func (p part) called(name string) bool {
	return name == p.text || p.arg != "" && (name == p.arg || p.kind == "header" && strings.EqualFold(name, p.arg))
}

// canonical is a value as the entry of the part has it.
func (p part) canonical(value string) (string, error) {
	if p.kind != "ip" {
		return value, nil
	}
	prefix, err := netip.ParsePrefix(value)
	if err != nil {
		var address netip.Addr
		if address, err = netip.ParseAddr(value); err == nil {
			prefix = netip.PrefixFrom(address, p.prefix(address))
		}
	}
	if err != nil || prefix.Addr().Zone() != "" || prefix.Addr().Is4In6() || prefix.Bits() != p.prefix(prefix.Addr()) {
		return "", fmt.Errorf("%q: expected an address, or a network of /%d (IPv4) or /%d (IPv6)", value, p.bits, ipv6Bits)
	}
	return prefix.Masked().String(), nil
}

func (p part) prefix(address netip.Addr) int {
	if address.Is4() {
		return p.bits
	}
	return ipv6Bits
}

// parts are those of a rule's key. A rule has passed Compile, or nothing is known of it: parts that are none
// are left out.
func (r *Rule) parts() []part {
	var parts []part
	for _, text := range r.Limit.Key {
		if p, err := parsePart(text); err == nil {
			parts = append(parts, p)
		}
	}
	return parts
}

// Values are values of the parts of the key, in their order, from values by part: as the key has it, or by
// what comes after its colon. The error names a part without a value, or a name that is no part.
func (r *Rule) Values(byPart map[string]string) ([]string, error) {
	parts := r.parts()
	match, err := resolve(parts, byPart)
	if err != nil {
		return nil, err
	}
	values := make([]string, len(parts))
	for i, p := range parts {
		if match[i] == nil {
			return nil, fmt.Errorf("%s: has no value, and the key of %s has it", p.text, r.ID)
		}
		values[i] = *match[i]
	}
	return values, nil
}

// resolve finds the parts that are called by names, and the values in the form of their entries: nil for a part
// that is not called.
func resolve(parts []part, byName map[string]string) ([]*string, error) {
	out := make([]*string, len(parts))
	for _, name := range sortedKeys(byName) {
		at := -1
		for i, p := range parts {
			switch {
			case !p.called(name) || name != p.text && at >= 0 && parts[at].text == name:
			case at < 0 || name == p.text:
				at = i
			default:
				return nil, fmt.Errorf("%q: is %s and %s; expected the part as the key has it", name, parts[at].text, p.text)
			}
		}
		if at < 0 {
			return nil, fmt.Errorf("%q: is no part of the key; expected one of %s", name, textsOf(parts))
		}
		value, err := parts[at].canonical(byName[name])
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		if out[at] != nil {
			return nil, fmt.Errorf("%q: %s has a value already", name, parts[at].text)
		}
		out[at] = &value
	}
	return out, nil
}

func textsOf(parts []part) string {
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.text
	}
	return strings.Join(texts, ", ")
}
