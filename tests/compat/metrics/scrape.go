package main

import (
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
)

// A family is what Prometheus makes of one metric: its type, and its series by their labels.
type family struct {
	kind   string
	series map[string]float64 // `name{labels}` as exposed, histograms by _sum, _count and _bucket
}

type scrape map[string]*family

func fetch(address string) (scrape, error) {
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	return parse(string(text))
}

// parse reads the exposition text and refuses what a scraper would refuse: a sample outside its family, a family twice.
func parse(text string) (scrape, error) {
	families := scrape{}
	var name string
	for _, line := range strings.Split(text, "\n") {
		words := strings.SplitN(line, " ", 4)
		switch {
		case line == "":
		case strings.HasPrefix(line, "# TYPE "):
			name = words[2]
			if families[name] != nil {
				return nil, fmt.Errorf("family %s twice", name)
			}
			families[name] = &family{kind: words[3], series: map[string]float64{}}
		case line[0] == '#':
		default:
			at := strings.LastIndexByte(line, ' ')
			value, err := strconv.ParseFloat(line[at+1:], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			if !strings.HasPrefix(line, name) {
				return nil, fmt.Errorf("%q in family %s", line, name)
			}
			families[name].series[sorted(line[:at])] = value
		}
	}
	return families, nil
}

// sorted puts labels in the order of their names: the order in the text says nothing.
func sorted(series string) string {
	name, rest, found := strings.Cut(series, "{")
	if !found {
		return series
	}
	labels := split(strings.TrimSuffix(rest, "}"))
	sort.Strings(labels)
	return name + "{" + strings.Join(labels, ",") + "}"
}

// split cuts `a="x",b="y"` at the commas between labels; none of the values met here has an escaped quote.
func split(labels string) (parts []string) {
	for labels != "" {
		end := strings.IndexByte(labels, '"') + 1
		end += strings.IndexByte(labels[end:], '"') + 1
		parts = append(parts, labels[:end])
		labels = strings.TrimPrefix(labels[end:], ",")
	}
	return parts
}

// names returns the names of a series' labels, without the bounds of buckets.
func names(series string) string {
	_, rest, found := strings.Cut(series, "{")
	if !found {
		return ""
	}
	var list []string
	for _, label := range split(strings.TrimSuffix(rest, "}")) {
		if name, _, _ := strings.Cut(label, "="); name != "le" {
			list = append(list, name)
		}
	}
	return strings.Join(list, ",")
}
