package snapshot

import (
	"fmt"

	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/translate"
)

// Decode makes a Resource again of what one was encoded to, with the same bytes and version, after the
// checks of Encode. version is what the bytes are expected to have. What an older or newer program encoded
// passes if it is valid to this one; fields that this one does not know are kept.
func Decode(t translate.Type, name, version, source string, encoded []byte) (*Resource, error) {
	r := translate.Resource{Type: t, Name: name, Source: source}
	if has := cache.HashResource(encoded); has != version {
		return nil, refuse(r, fmt.Errorf("version is %.12s, expected that of its bytes, %.12s", version, has))
	}
	var err error
	if r.Message, err = messageOf(t); err != nil {
		return nil, refuse(r, fmt.Errorf("type %q is not one that is served", t))
	}
	if err := proto.Unmarshal(encoded, r.Message); err != nil {
		return nil, refuse(r, err)
	}
	return validated(r, encoded)
}
