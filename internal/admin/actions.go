package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// maxAction bounds the body of an action.
const maxAction = 4096

func (m moment) freeze(r *http.Request) (any, error) {
	return m.act(r, m.Actions.Freeze, "frozen; `controlplane unfreeze` lets them move again")
}

func (m moment) unfreeze(r *http.Request) (any, error) {
	return m.act(r, m.Actions.Unfreeze, "free to move")
}

func (m moment) act(r *http.Request, action func(ctx context.Context, service string) error, outcome string) (any, error) {
	request, err := decodeAction(r.Body)
	if err != nil {
		return nil, err
	}
	whose := "all services"
	if request.Service != "" {
		if _, err := m.find(request.Service); err != nil {
			return nil, err
		}
		whose = request.Service
	}
	if err := action(r.Context(), request.Service); err != nil {
		return nil, httpError{http.StatusConflict, err.Error()}
	}
	return ActionView{Done: "the weights of " + whose + " are " + outcome}, nil
}

// decodeAction is strict: a field that does not exist, or a second document, is an error, so that a
// misspelt "service" does not freeze everything.
func decodeAction(body io.Reader) (ActionRequest, error) {
	var request ActionRequest
	raw, err := io.ReadAll(io.LimitReader(body, maxAction+1))
	if err != nil {
		return request, badRequest("the body could not be read: %v", err)
	}
	if len(raw) > maxAction {
		return request, badRequest("the body is longer than %d bytes; expected {\"service\": \"<namespace>/<name>:<port>\"} or nothing", maxAction)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	switch err := dec.Decode(&request); {
	case errors.Is(err, io.EOF):
		return request, nil
	case err != nil:
		return request, badRequest(`the body is %v; expected {"service": "<namespace>/<name>:<port>"} or nothing`, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return request, badRequest("the body goes on after its first JSON value; expected one object")
	}
	return request, nil
}
