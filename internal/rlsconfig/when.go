package rlsconfig

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"evenkeel.io/controlplane/internal/re2"
)

// selectors are the methods, paths and headers that a request must have to be counted, all of them.
func (r *Rule) selectors() ([]*routev3.HeaderMatcher, error) {
	when := r.Limit.When
	if when == nil {
		return nil, nil
	}
	var out []*routev3.HeaderMatcher
	switch methods := when.Methods; len(methods) {
	case 0:
	case 1:
		out = append(out, header(":method", exactly(methods[0])))
	default:
		quoted := make([]string, len(methods))
		for i, m := range methods {
			quoted[i] = regexp.QuoteMeta(m)
		}
		out = append(out, header(":method", matching(strings.Join(quoted, "|"))))
	}
	if len(when.Paths) > 0 {
		expression, err := pathExpression(when.Paths)
		if err != nil {
			return nil, fmt.Errorf("when.paths%w", err)
		}
		out = append(out, header(":path", matching(expression)))
	}
	for _, name := range sortedKeys(when.Headers) {
		switch value := when.Headers[name]; {
		case value == "*":
			out = append(out, present(name))
		case value == "!*":
			out = append(out, absent(name))
		case strings.HasPrefix(value, "~"):
			if err := re2.Check(value[1:]); err != nil {
				return nil, fmt.Errorf("when.headers[%s]: regular expression %.64q %w", name, value[1:], err)
			}
			out = append(out, header(name, matching(value[1:])))
		default:
			out = append(out, header(name, exactly(value)))
		}
	}
	return out, nil
}

// pathExpression matches the :path of a request, query and all, if its path is one of paths. Errors begin
// with the index.
func pathExpression(paths []string) (string, error) {
	alternatives := make([]string, len(paths))
	for i, path := range paths {
		switch {
		case strings.HasPrefix(path, "~"):
			if err := re2.Check(path[1:]); err != nil {
				return "", fmt.Errorf("[%d]: regular expression %.64q %w", i, path[1:], err)
			}
			parsed, err := syntax.Parse(path[1:], syntax.Perl)
			if err != nil {
				return "", fmt.Errorf("[%d]: %w", i, err)
			}
			alternatives[i] = withinPath(parsed).String()
		case strings.HasPrefix(path, "=/"):
			alternatives[i] = regexp.QuoteMeta(path[1:])
		case strings.HasPrefix(path, "/"):
			alternatives[i] = regexp.QuoteMeta(strings.TrimRight(path, "/")) + `(?:/[^?]*)?`
		default:
			return "", fmt.Errorf(`[%d]: %q: expected a path, "=/..." or "~EXPRESSION"`, i, path)
		}
	}
	expression := "(?:" + strings.Join(alternatives, "|") + ")" + query
	if err := re2.CheckProgram(expression); err != nil {
		return "", fmt.Errorf(": together they are an expression that %w", err)
	}
	return expression, nil
}

// query matches what follows a path.
const query = `(?:\?.*)?`

// withinPath has an expression that is meant for a path alone mean the same of a path with its query: nothing
// in it matches a question mark, and the end of the text is where the query begins. Otherwise a client could
// leave a limit, or get into one, by a query.
func withinPath(e *syntax.Regexp) *syntax.Regexp {
	switch e.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return &syntax.Regexp{Op: syntax.OpCharClass, Rune: []rune{0, '?' - 1, '?' + 1, '\U0010FFFF'}}
	case syntax.OpCharClass:
		return &syntax.Regexp{Op: syntax.OpCharClass, Flags: e.Flags, Rune: without('?', e.Rune)}
	case syntax.OpLiteral:
		for _, r := range e.Rune {
			if r == '?' {
				return &syntax.Regexp{Op: syntax.OpNoMatch}
			}
		}
	case syntax.OpEndText, syntax.OpEndLine:
		if end, err := syntax.Parse(query+`\z`, syntax.Perl); err == nil {
			return end
		}
	}
	for i, sub := range e.Sub {
		e.Sub[i] = withinPath(sub)
	}
	return e
}

// without is a class of characters, as pairs of first and last, less one character.
func without(r rune, class []rune) []rune {
	var out []rune
	for i := 0; i+1 < len(class); i += 2 {
		first, last := class[i], class[i+1]
		if r < first || last < r {
			out = append(out, first, last)
			continue
		}
		if first < r {
			out = append(out, first, r-1)
		}
		if r < last {
			out = append(out, r+1, last)
		}
	}
	return out
}

// header matches a header. Host has another name within Envoy.
func header(name string, value *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	if strings.EqualFold(name, "host") {
		name = ":authority"
	}
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: value}}
}

func present(name string) *routev3.HeaderMatcher {
	m := header(name, nil)
	m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
	return m
}

func absent(name string) *routev3.HeaderMatcher {
	m := present(name)
	m.InvertMatch = true
	return m
}

func exactly(value string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}}
}

func matching(expression string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expression}}}
}
