package inspect

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	maxFindings = 100
	// maxItem is how large a thing that is listed may be without remark: each client
	// reads all of them, and mostly a model does.
	maxItem = 64 << 10
	// maxName bounds a tool's name, by the protocol.
	maxName = 128
)

// item is one thing that a server lists.
type item struct {
	raw    json.RawMessage
	kind   string
	number int
	fields map[string]json.RawMessage
	err    error // it is no object
	again  bool  // there was one by that name, or URI
}

// text returns a field that is a string; empty if it is not.
func (it item) text(field string) string {
	var text string
	_ = json.Unmarshal(it.fields[field], &text) // of another type, it is none
	return text
}

func (it item) uri() string {
	switch it.kind {
	case "resources":
		return it.text("uri")
	case "resourceTemplates":
		return it.text("uriTemplate")
	}
	return ""
}

// key is what an item is called by.
func (it item) key() string {
	if uri := it.uri(); uri != "" {
		return uri
	}
	return it.text("name")
}

// subject says which item a finding is about.
func (it item) subject() string {
	if key := it.key(); key != "" {
		return fmt.Sprintf("%s[%d] %s", it.kind, it.number, clip(key, maxText))
	}
	return fmt.Sprintf("%s[%d]", it.kind, it.number)
}

// find takes down something that would be refused or cause trouble.
func (i *inspection) find(subject, reason string) {
	if len(i.report.Findings) < maxFindings {
		i.report.Findings = append(i.report.Findings, &leaseholdv1.InspectionFinding{Subject: subject, Reason: reason})
	}
}

// judge says what may be wrong with anything that is listed.
func (i *inspection) judge(it item) {
	switch {
	case it.err != nil:
		i.find(it.subject(), "is not an object")
	case it.text("name") == "":
		i.find(it.subject(), "has no name")
	case it.again:
		i.find(it.subject(), "was listed before: clients cannot tell the two apart")
	}
	if n := len(it.raw); n > maxItem {
		i.find(it.subject(), fmt.Sprintf("has %d bytes, more than %d: clients and models may not take it", n, maxItem))
	}
}

func (i *inspection) judgeTool(it item) {
	if name := it.text("name"); len(name) > maxName || strings.ContainsFunc(name, notForNames) {
		i.find(it.subject(), fmt.Sprintf("its name, of %d bytes, is not 1 to %d characters of A-Z, a-z, 0-9, _, - and .: clients may refuse it", len(name), maxName))
	}
	for _, schema := range []string{"inputSchema", "outputSchema"} {
		i.judgeSchema(it, schema)
	}
}

func notForNames(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.", r)
}

func (i *inspection) judgeSchema(it item, field string) {
	raw, ok := it.fields[field]
	var schema map[string]json.RawMessage
	switch err := json.Unmarshal(raw, &schema); {
	case it.err != nil, !ok && field == "outputSchema":
	case !ok:
		i.find(it.subject(), "has no "+field)
	case err != nil || schema == nil:
		i.find(it.subject(), field+" is not an object")
	case string(schema["type"]) != `"object"`:
		i.find(it.subject(), field+` does not have the type "object"`)
	}
}

func (i *inspection) judgeResource(it item) {
	if u, err := url.Parse(it.uri()); it.err == nil && (err != nil || u.Scheme == "") {
		i.find(it.subject(), "its uri is no absolute URI")
	}
}

func (i *inspection) judgeTemplate(it item) {
	if it.err == nil && it.uri() == "" {
		i.find(it.subject(), "has no uriTemplate")
	}
}

// judgeRepeatable looks for the tools that the definition names and the server lacks.
func (i *inspection) judgeRepeatable() {
	has := make(map[string]bool)
	for _, tool := range i.report.GetTools().GetItems() {
		has[tool.Name] = true
	}
	if _, ok := i.offers["tools"]; ok && (i.report.Tools == nil || i.report.Tools.Cut != "") {
		return // nobody knows
	}
	for _, name := range slices.Sorted(maps.Keys(i.upstream.Repeatable)) {
		if !has[name] {
			i.find("repeatable_tools "+name, "the server has no such tool")
		}
	}
}
