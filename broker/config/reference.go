package config

import (
	"fmt"
	"io"
	"strings"
)

// WriteReference writes the reference of all settings as Markdown. Its output
// depends on the tables alone.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Settings\n\n")
	b.WriteString("Made from the tables in `broker/config`; do not edit.\n\n")
	b.WriteString("Names, units and rules are Kafka's; defaults that differ say so. A topic's value is the first found in: the topic's own\n")
	b.WriteString("setting; the dynamic value of the broker, then of all brokers, then the configuration file, for each broker setting\n")
	b.WriteString("named under \"broker's default\", in order; the default. An unknown name is an error.\n\n")
	b.WriteString("## Topic settings\n\nChange at any time, with `kafka-configs` or `millrace config`.\n\n")
	for i := range topicSettings {
		topicSettings[i].reference(&b, true)
	}
	b.WriteString("## Broker settings\n\nSettings that are the default of a topic setting are listed there.\n\n")
	for i := range brokerSettings {
		brokerSettings[i].reference(&b, false)
	}
	b.WriteString("## Millrace's own settings\n\nRead at start.\n\n")
	for i := range millraceSettings {
		millraceSettings[i].reference(&b, false)
	}
	b.WriteString("## Settings of Kafka that are not honoured\n\n")
	b.WriteString("A name that ends in a dot stands for all that begin with it. *Ignored*: a warning at start. *Refused*: the broker does not start.\n\n")
	b.WriteString("| Setting | | Why |\n|---|---|---|\n")
	for _, u := range unsupportedSettings {
		what := "ignored"
		if u.verdict == refuse {
			what = "refused"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", u.name, what, u.why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *Setting) reference(b *strings.Builder, topic bool) {
	fmt.Fprintf(b, "### `%s`\n\n%s\n", s.Name, s.Doc)
	if s.Inert != "" {
		fmt.Fprintf(b, "\n**Accepted, without effect:** %s.\n", s.Inert)
	}
	def := "none"
	switch {
	case s.Unset:
	case s.Default == "":
		def = "empty"
	default:
		def = "`" + s.Default + "`"
	}
	fmt.Fprintf(b, "\n- type: %v; default: %s", s.Type, def)
	if s.Valid.Text != "" {
		fmt.Fprintf(b, "; valid: `%s`", s.Valid.Text)
	}
	b.WriteString("\n")
	if topic {
		var names []string
		for _, syn := range s.Synonyms {
			names = append(names, "`"+syn.Name+"`")
		}
		if len(names) > 0 {
			fmt.Fprintf(b, "- broker's default: %s\n", joinComma(names))
		}
	} else {
		fmt.Fprintf(b, "- update: %v\n", s.Update)
	}
	b.WriteString("\n")
}
