package promapi

import (
	"context"
	"fmt"
	"time"
)

// termNumber is a query of one number, which is no term of a reading.
const termNumber term = "number"

// askWithin is how long a server may take for a number, if the context does not say less.
const askWithin = 2 * time.Second

// Ask asks a server for one number, within the same bounds as all queries. Errors name the server and say what
// was expected; they hold nothing of the answer.
func (m *Manager) Ask(ctx context.Context, name, text string) (float64, error) {
	s := m.servers[name]
	if s == nil {
		return 0, fmt.Errorf("no server named %s: serve --prometheus %s=URL", name, name)
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	a := m.query(ctx, s, query{termNumber, text}, time.Now(), askWithin)
	switch {
	case a.failure != nil:
		return 0, fmt.Errorf("%s: %w", name, a.failure)
	case len(a.results) != 1:
		return 0, fmt.Errorf("%s: the query gives %d results, expected one: aggregate with sum() or max(), a number with vector()", name, len(a.results))
	}
	return float64(a.results[0].Value), nil
}
