package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
)

// show prints v as JSON, or the rows as a table under heads. Programs get a list even
// if it is empty; people get a sentence.
func (c *control) show(v any, heads []string, rows [][]string, none string) error {
	if c.output == "json" {
		return c.showJSON(v)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(c.out, none)
		return err
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{heads}, rows...) {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		// The last column is followed by no tab, so that lines have no trailing blanks.
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (c *control) showJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// sayf prints a line for people; programs read JSON.
func (c *control) sayf(format string, args ...any) error {
	if c.output == "json" {
		return nil
	}
	_, err := fmt.Fprintf(c.out, format+"\n", args...)
	return err
}
