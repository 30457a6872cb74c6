package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"evenkeel.io/controlplane/internal/snapshot"
)

// maxAction bounds the body of an action.
const maxAction = 4096

func (m moment) freeze(r *http.Request) (any, error) {
	return m.hold(r, m.Actions.Freeze, "frozen; `controlplane unfreeze` lets them move again")
}

func (m moment) unfreeze(r *http.Request) (any, error) {
	return m.hold(r, m.Actions.Unfreeze, "free to move")
}

func (m moment) hold(r *http.Request, action func(ctx context.Context, by, service string) error, outcome string) (any, error) {
	request, err := decodeAction[ActionRequest](r.Body, `{"service": "<namespace>/<name>:<port>"} or nothing`)
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
	if err := action(r.Context(), by(r), request.Service); err != nil {
		return nil, httpError{http.StatusConflict, err.Error()}
	}
	return ActionView{Done: "the weights of " + whose + " are " + outcome}, nil
}

func (m moment) rollback(r *http.Request) (any, error) {
	request, err := decodeAction[RollbackRequest](r.Body, `{"fleet": "<namespace>/<gateway>", "generation": <number>}`)
	if err != nil {
		return nil, err
	}
	if err := m.isFleet(request.Fleet); err != nil {
		return nil, err
	}
	if request.Generation == 0 {
		return nil, badRequest("which generation? /history?fleet=%s lists those that are kept", request.Fleet)
	}
	pin, err := m.Actions.Rollback(r.Context(), by(r), request.Fleet, request.Generation)
	if err != nil {
		return nil, httpError{http.StatusConflict, err.Error()}
	}
	done := fmt.Sprintf("fleet %s is served generation %d, with the endpoints and weights of now, until %s changes again or `controlplane unpin %s`",
		request.Fleet, pin.Number, objectsOf(pin), request.Fleet)
	if len(pin.Gone) > 0 {
		done += fmt.Sprintf("; no Service is behind %s any more: what is sent there is answered 503", strings.Join(pin.Gone, ", "))
	}
	return ActionView{Done: done}, nil
}

// objectsOf names what ends a pin, three objects at most.
func objectsOf(pin snapshot.Pin) string {
	const most = 3
	switch n := len(pin.Objects); {
	case pin.AllObjects || n == 0:
		return "any object of it"
	case n > most:
		return fmt.Sprintf("%s or one of %d more", strings.Join(pin.Objects[:most], ", "), n-most)
	}
	return strings.Join(pin.Objects, " or ")
}

func (m moment) unpin(r *http.Request) (any, error) {
	request, err := decodeAction[UnpinRequest](r.Body, `{"fleet": "<namespace>/<gateway>"}`)
	if err != nil {
		return nil, err
	}
	if err := m.isFleet(request.Fleet); err != nil {
		return nil, err
	}
	if err := m.Actions.Unpin(r.Context(), by(r), request.Fleet); err != nil {
		return nil, httpError{http.StatusConflict, err.Error()}
	}
	return ActionView{Done: "fleet " + request.Fleet + " is served its newest generation"}, nil
}

func (m moment) isFleet(name string) error {
	switch {
	case name == "":
		return badRequest("which fleet? a fleet is named <namespace>/<gateway>; /snapshots lists them")
	case !slices.Contains(m.model.Fleets(), name):
		return m.noFleet(name)
	}
	return nil
}

// by is who sent an action. The port knows nobody by name.
func by(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return "admin port from " + host
}

// accept does not ask whether the Service is known: what is held may be all that is left of it.
func (m moment) accept(r *http.Request) (any, error) {
	request, err := decodeAction[ActionRequest](r.Body, `{"service": "<namespace>/<name>:<port>"} or nothing`)
	if err != nil {
		return nil, err
	}
	if err := m.Actions.Accept(r.Context(), by(r), request.Service); err != nil {
		return nil, httpError{http.StatusConflict, err.Error()}
	}
	return ActionView{Done: "what was held of " + cmp.Or(request.Service, "all objects") + " is taken"}, nil
}

// decodeAction is strict: a field that does not exist, or a second document, is an error, so that a
// misspelt "service" does not freeze everything.
func decodeAction[T any](body io.Reader, expected string) (T, error) {
	var request T
	raw, err := io.ReadAll(io.LimitReader(body, maxAction+1))
	if err != nil {
		return request, badRequest("the body could not be read: %v", err)
	}
	if len(raw) > maxAction {
		return request, badRequest("the body is longer than %d bytes; expected %s", maxAction, expected)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	switch err := dec.Decode(&request); {
	case errors.Is(err, io.EOF):
		return request, nil
	case err != nil:
		return request, badRequest("the body is %v; expected %s", err, expected)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return request, badRequest("the body goes on after its first JSON value; expected one object")
	}
	return request, nil
}
