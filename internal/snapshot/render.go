package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

// JSON is the resource as Envoy's documentation writes it (field names of the proto files, packed
// messages opened), the same bytes each time.
func (r *Resource) JSON() ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r.Message())
	if err != nil {
		return nil, fmt.Errorf("%s %q as JSON: %w", r.Type, r.Name, err)
	}
	// protojson varies its white space on purpose.
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, fmt.Errorf("%s %q as JSON: %w", r.Type, r.Name, err)
	}
	return escapeInvisible(out.Bytes()), nil
}

// escapeInvisible writes characters that no one sees as \u0085 and the like: YAML forbids some of them
// and changes others, and a terminal may obey them. In JSON they occur within strings only. Those
// beyond four digits stay, because JSON and YAML have no escape in common for them.
func escapeInvisible(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		if r < 0x7f || r > 0xffff || unicode.IsPrint(r) {
			out = utf8.AppendRune(out, r)
		} else {
			out = fmt.Appendf(out, "\\u%04x", r)
		}
	}
	return out
}

// YAML is JSON as YAML, keys sorted.
func (r *Resource) YAML() ([]byte, error) {
	raw, err := r.JSON()
	if err != nil {
		return nil, err
	}
	out, err := yaml.JSONToYAML(raw)
	if err != nil {
		return nil, fmt.Errorf("%s %q as YAML: %w", r.Type, r.Name, err)
	}
	return out, nil
}
