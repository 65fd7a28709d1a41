package policies

import "slices"

// notInherited are the keys that say something of one file alone.
var notInherited = map[string]bool{"name": true, "description": true, "extends": true}

// merged is the child laid over its parent, key by key: mappings are merged,
// everything else is replaced, and the denied system calls of both are denied.
func merged(parent, child *node) *node {
	inherited := *parent
	inherited.fields = nil
	for _, f := range parent.fields {
		if !notInherited[f.name] {
			inherited.fields = append(inherited.fields, f)
		}
	}
	return overlay(&inherited, child)
}

func overlay(parent, child *node) *node {
	switch {
	case parent == nil:
		return child
	case child == nil:
		return parent
	case parent.kind == mapping && child.kind == mapping:
		return overlayFields(withoutNetwork(parent, child), child)
	case child.key == "syscalls.deny" && parent.kind == list && child.kind == list:
		return joined(parent, child)
	}
	return child
}

// withoutNetwork is parent without what `isolated: true` of the child makes
// void: whoever extends a profile to isolate it has said so in one word.
func withoutNetwork(parent, child *node) *node {
	isolated := child.field("isolated")
	if child.key != "network" || isolated == nil || isolated.text != "true" {
		return parent
	}
	rest := *parent
	rest.fields = slices.DeleteFunc(slices.Clone(parent.fields), func(f field) bool {
		return f.name == "allow_outgoing" || f.name == "allow_incoming"
	})
	return &rest
}

func overlayFields(parent, child *node) *node {
	result := *child
	result.fields = nil
	for _, f := range parent.fields {
		result.fields = append(result.fields, field{f.name, overlay(f.value, child.field(f.name))})
	}
	for _, f := range child.fields {
		if parent.field(f.name) == nil {
			result.fields = append(result.fields, f)
		}
	}
	return &result
}

// joined is the list of the parent's items and then the child's, numbered anew.
func joined(parent, child *node) *node {
	result := *child
	result.items = nil
	for _, items := range [][]*node{parent.items, child.items} {
		for _, item := range items {
			numbered := *item
			numbered.key = itemKey(result.key, len(result.items))
			result.items = append(result.items, &numbered)
		}
	}
	return &result
}

// places maps every key of the tree to where it stands.
func places(n *node, into map[string]Position) map[string]Position {
	if n.key != "" {
		into[n.key] = n.keyAt
	}
	for _, f := range n.fields {
		places(f.value, into)
	}
	for _, item := range n.items {
		places(item, into)
	}
	return into
}
