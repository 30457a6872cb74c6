package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// maxQuery bounds a request's query string; no parameter of ours is longer than a few names.
const maxQuery = 4096

// httpError is an answer other than 200, with words on what to do.
type httpError struct {
	code int
	text string
}

func (e httpError) Error() string { return e.text }

func notFound(format string, args ...any) error {
	return httpError{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return httpError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// serve makes a route's handler: JSON or a page, whichever the client prefers.
func (s *server) serve(rt route) http.Handler {
	method := http.MethodGet
	if rt.action {
		method = http.MethodPost
	}
	return only(method, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		var value any
		var err error
		switch {
		case len(r.URL.RawQuery) > maxQuery:
			err = httpError{http.StatusRequestURITooLong, fmt.Sprintf("the query is longer than %d bytes", maxQuery)}
		case rt.action && r.Header.Get(ActionHeader) != "1":
			err = httpError{http.StatusForbidden, "an action needs the header " + ActionHeader + ": 1, which keeps other pages from acting through a browser; " +
				"`controlplane freeze`, `rollback` and the like send it"}
		default:
			value, err = rt.handle(s.moment(), r)
		}
		switch {
		case err != nil:
			s.fail(w, r, err)
		case !rt.action && wantsHTML(r):
			s.render(w, r, http.StatusOK, rt, value)
		default:
			writeJSON(w, http.StatusOK, value)
		}
	}))
}

func (s *server) notFound(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	var paths []string
	for _, rt := range s.routes {
		path := strings.TrimSuffix(rt.pattern, "{$}")
		if rt.action {
			path = "POST " + path
		}
		paths = append(paths, path)
	}
	s.fail(w, r, notFound("there is no such path; there are %s, /metrics, /healthz and /readyz", strings.Join(paths, ", ")))
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	if e, ok := errors.AsType[httpError](err); ok {
		code = e.code
	}
	view := ErrorView{Error: err.Error()}
	if wantsHTML(r) {
		s.render(w, r, code, route{page: "error"}, view)
		return
	}
	writeJSON(w, code, view)
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(value); err != nil {
		code = http.StatusInternalServerError
		body.Reset()
		fmt.Fprintf(&body, "{\"error\": %q}\n", "the answer could not be encoded: "+err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(code)
	_, _ = w.Write(body.Bytes()) // the client may be gone
}

// wantsHTML reports whether the client accepts text/html and does not like JSON better.
func wantsHTML(r *http.Request) bool {
	html, json := -1.0, -1.0
	for _, part := range strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, parameters, _ := strings.Cut(part, ";")
		q := 1.0
		for p := range strings.SplitSeq(parameters, ";") {
			if value, ok := strings.CutPrefix(strings.TrimSpace(p), "q="); ok {
				if parsed, err := strconv.ParseFloat(value, 64); err == nil {
					q = parsed
				}
			}
		}
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/html":
			html = max(html, q)
		case "application/json":
			json = max(json, q)
		}
	}
	return html > 0 && html >= json
}
