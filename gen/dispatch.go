package gen

import (
	. "github.com/dave/jennifer/jen"
)

// dispatch builds z_dispatch.go: role × kind to a direct call. It leans on Role
// and the handlers, which are written by hand.
func dispatch(s *Schema) *File {
	f := s.groupFile()
	body := s.handlerSwitch(s.EveryRole)
	var roles []Code
	for _, role := range s.Roles {
		if handlers := s.handlerSwitch(role.Handlers); len(handlers) > 0 {
			roles = append(roles, Case(Id(role.Name)).Block(handlers...))
		}
	}
	if len(roles) > 0 {
		body = append(body, Switch(Id("g").Dot("role")).Block(roles...))
	}
	body = append(body, Return(call("ignored")))
	f.Add(doc(`step hands m to the handler of its kind in the current role. What a role has no handler for, it ignores.

REQUIRES: m has no term, or the group's, or is of a kind that is handled in another term.`+hotpath,
		pointerMethod("g", "Group", "step").Params(Id("m").Op("*").Qual(s.wirePath(), "Message")).Error().Block(body...)))
	return f
}

// handlerSwitch is a switch over the kinds, or nothing without handlers.
func (s *Schema) handlerSwitch(handlers []Handler) []Code {
	if len(handlers) == 0 {
		return nil
	}
	var cases []Code
	for _, h := range handlers {
		cases = append(cases, Case(s.wireIDs(h.Kinds)...).Block(Return(call(h.Method))))
	}
	return []Code{Switch(Id("m").Dot("Kind")).Block(cases...)}
}

func call(method string) Code { return Id("g").Dot(method).Call(Id("m")) }

// wireIDs turns names of package wire into qualified identifiers.
func (s *Schema) wireIDs(names []string) []Code {
	var out []Code
	for _, name := range names {
		out = append(out, Qual(s.wirePath(), name))
	}
	return out
}
