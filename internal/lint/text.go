package lint

import (
	"path"
	"regexp"
	"strings"
)

// The patterns are put together from pieces so that they do not find
// themselves.
var (
	unfinishedWord = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	machinePath    = regexp.MustCompile(`(^|[^\w.])/(ho` + `me/\w|Us` + `ers/\w|ro` + `ot/\w|wo` + `rk/\w)|[A-Z]:\\Us` + `ers`)
)

// unfinished finds marks of work that is left to do. What is worth doing later
// is written down where work is planned; what is wrong is mended.
func unfinished(t *Tree) []Finding {
	return grep(t, unfinishedWord, "work that is left to do")
}

// machinePaths finds paths that exist on somebody's machine only.
func machinePaths(t *Tree) []Finding {
	return grep(t, machinePath, "a path of one machine")
}

func grep(t *Tree, pattern *regexp.Regexp, what string) []Finding {
	var found []Finding
	for _, text := range t.texts {
		for i, line := range text.Lines {
			if m := pattern.FindString(line); m != "" {
				found = append(found, Finding{File: text.Path, Line: i + 1, Text: what + ": " + strings.TrimSpace(m)})
			}
		}
	}
	return found
}

var (
	link       = regexp.MustCompile(`\]\(([^()\s]+)(?:\s+"[^"]*")?\)`)
	codeSpan   = regexp.MustCompile("`[^`]*`")
	elsewhere  = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)
	headingPad = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// links holds that what a document links to inside the repository is there:
// the file, and the heading in it.
func links(t *Tree) []Finding {
	anchors := make(map[string]map[string]bool)
	for _, text := range t.texts {
		if path.Ext(text.Path) == ".md" {
			anchors[text.Path] = headings(text)
		}
	}
	var found []Finding
	for _, text := range t.texts {
		if path.Ext(text.Path) != ".md" {
			continue
		}
		eachProse(text, func(line int, prose string) {
			for _, m := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(prose, ""), -1) {
				if elsewhere.MatchString(m[1]) {
					continue
				}
				file, anchor, _ := strings.Cut(m[1], "#")
				target := text.Path
				if file != "" {
					target = path.Join(path.Dir(text.Path), file)
				}
				switch {
				case strings.HasPrefix(target, "..") || !t.paths[target]:
					found = append(found, Finding{File: text.Path, Line: line, Text: "a link to nowhere: " + m[1]})
				case anchor != "" && anchors[target] != nil && !anchors[target][anchor]:
					found = append(found, Finding{File: text.Path, Line: line, Text: "a link to no heading: " + m[1]})
				}
			}
		})
	}
	return found
}

// headings returns the anchors of a document.
func headings(text Text) map[string]bool {
	anchors := make(map[string]bool)
	eachProse(text, func(_ int, prose string) {
		if title := strings.TrimLeft(prose, "#"); title != prose && strings.HasPrefix(title, " ") {
			title = headingPad.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			anchors[strings.ReplaceAll(title, " ", "-")] = true
		}
	})
	return anchors
}

// eachProse calls f for each line of a document that is not in a code fence.
func eachProse(text Text, f func(line int, prose string)) {
	fenced := false
	for i, s := range text.Lines {
		if strings.HasPrefix(strings.TrimSpace(s), "```") {
			fenced = !fenced
			continue
		}
		if !fenced {
			f(i+1, s)
		}
	}
}
