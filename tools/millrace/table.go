package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table prints rows in columns, or as JSON objects when asked for.
type table struct {
	columns []string
	rows    [][]any
}

func newTable(columns ...string) *table { return &table{columns: columns} }

func (t *table) row(values ...any) { t.rows = append(t.rows, values) }

// write prints the table; with asJSON as an array of objects, so that scripts need no column counting.
func (t *table) write(w io.Writer, asJSON bool) error {
	if asJSON {
		objects := make([]map[string]any, 0, len(t.rows))
		for _, r := range t.rows {
			o := map[string]any{}
			for i, c := range t.columns {
				o[strings.ReplaceAll(strings.ToLower(c), " ", "_")] = r[i]
			}
			objects = append(objects, o)
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(objects)
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(t.columns, "\t"))
	for _, r := range t.rows {
		cells := make([]string, len(r))
		for i, v := range r {
			cells[i] = cell(v)
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// cell prints one value; lists without brackets, nothing as "-".
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		if v == "" {
			return "-"
		}
		return v
	case []int32:
		if len(v) == 0 {
			return "-"
		}
		return strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", ","), "[]")
	}
	return fmt.Sprint(v)
}
