package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

// JSON is the resource as Envoy's documentation writes it (field names of the proto files, packed
// messages opened), the same bytes each time.
func (r *Resource) JSON() ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r.Message)
	if err != nil {
		return nil, fmt.Errorf("%s %q as JSON: %w", r.Type, r.Name, err)
	}
	// protojson varies its white space on purpose.
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, fmt.Errorf("%s %q as JSON: %w", r.Type, r.Name, err)
	}
	return out.Bytes(), nil
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
