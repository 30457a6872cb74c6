package translate

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"evenkeel.io/controlplane/internal/catalog"
)

// headersToAdd sets (replacing what is there) and adds (beside what is there). Envoy removes first,
// then does these in order.
func headersToAdd(c catalog.HeaderChange) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	for _, h := range c.Set {
		out = append(out, headerOption(h, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
	}
	for _, h := range c.Add {
		out = append(out, headerOption(h, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD))
	}
	return out
}

func headerOption(h catalog.Header, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		// Values are literal: a percent sign would begin a substitution.
		Header:       &corev3.HeaderValue{Key: h.Name, Value: strings.ReplaceAll(h.Value, "%", "%%")},
		AppendAction: action,
		// Envoy drops a header that is set to nothing unless told that this is meant.
		KeepEmptyValue: h.Value == "",
	}
}
