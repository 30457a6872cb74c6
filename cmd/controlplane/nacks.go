package main

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newNacksCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "nacks",
		Short: "what proxies refused, in their own words",
		Long: `nacks lists refusals, the newest first: which node refused which type, the client's words, the
resource it seems to be about and the object behind that, and what is served instead.`,
		Example: "  controlplane nacks\n  controlplane nacks -o yaml",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return show(cmd, &c, "/nacks", nackStories) },
	}
	c.addFlags(cmd, true)
	return cmd
}

func nackStories(out screen, view admin.NacksView) error {
	var b strings.Builder
	for i, n := range view.Nacks {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  %s of %s refused %s", when(n.At), out.paint(bold, plain(n.Node)), plain(n.Fleet), out.paint(red, plain(n.Type)))
		if n.Count > 1 {
			fmt.Fprintf(&b, ", %d times in a row", n.Count)
		}
		b.WriteByte('\n')
		for line := range strings.Lines(n.Message) {
			fmt.Fprintf(&b, "  | %s\n", strings.TrimRightFunc(plain(line), unicode.IsSpace))
		}
		for _, line := range [][2]string{{"resource", n.Resource}, {"object", n.Source}, {"instead", n.Instead}, {"version", n.Version}, {"nonce", n.Nonce}} {
			if line[1] != "" {
				fmt.Fprintf(&b, "  %-9s %s\n", line[0], plain(line[1]))
			}
		}
	}
	if len(view.Nacks) == 0 {
		b.WriteString("None. Every proxy took everything.\n")
	}
	_, err := fmt.Fprint(out, b.String())
	return err
}
