package config

import (
	"fmt"
	"slices"
)

// Entry is one setting as DescribeConfigs shows it.
type Entry struct {
	Name     string
	Value    *string // nil: null
	Source   Source
	ReadOnly bool
	Type     Type
	Doc      string
	// Synonyms are the values that count, strongest first, the one in force
	// at the head.
	Synonyms []EntrySynonym
}

// EntrySynonym is one place where a setting's value may come from.
type EntrySynonym struct {
	Name   string
	Value  *string
	Source Source
}

// DescribeTopic shows a topic's settings: those of names, or all if names is
// nil. Unknown names are left out, as Kafka does.
func (b *Broker) DescribeTopic(overrides map[string]string, names []string) []Entry {
	sn := b.current.Load()
	var out []Entry
	for i := range topicSettings {
		s := &topicSettings[i]
		if names != nil && !slices.Contains(names, s.Name) {
			continue
		}
		v := b.topicValue(sn, s, overrides)
		e := Entry{Name: s.Name, Value: &v.text, Type: s.Type, Doc: s.documentation()}
		if text, ok := overrides[s.Name]; ok {
			if v, err := s.parse(text); err == nil {
				e.Synonyms = append(e.Synonyms, EntrySynonym{s.Name, &v.text, DynamicTopic})
			}
		}
		for _, syn := range s.Synonyms {
			e.Synonyms = append(e.Synonyms, b.chain(sn, brokerByName[syn.Name])...)
		}
		if len(s.Synonyms) == 0 {
			e.Synonyms = append(e.Synonyms, EntrySynonym{s.Name, &s.Default, Default})
		}
		e.Source = e.Synonyms[0].Source
		out = append(out, e)
	}
	return out
}

// DescribeBroker shows the settings of this broker.
func (b *Broker) DescribeBroker(names []string) []Entry {
	sn := b.current.Load()
	var out []Entry
	for _, s := range allBroker {
		if names != nil && !slices.Contains(names, s.Name) {
			continue
		}
		e := Entry{Name: s.Name, Source: Default, ReadOnly: s.Update == ReadOnly, Type: s.Type, Doc: s.documentation()}
		if v := sn.values[s.Name]; v.set {
			e.Value = &v.text
		}
		if own := b.chain(sn, s); len(own) > 0 {
			e.Source = own[0].Source
		}
		for _, syn := range s.Synonyms {
			e.Synonyms = append(e.Synonyms, b.chain(sn, brokerByName[syn.Name])...)
		}
		out = append(out, e)
	}
	return out
}

// DescribeDynamic shows the dynamic values of a broker or, with DynamicDefaultBroker,
// of all brokers, and nothing else: what Kafka shows for a cluster default.
func DescribeDynamic(values map[string]string, source Source, names []string) []Entry {
	var out []Entry
	for _, s := range allBroker {
		text, ok := values[s.Name]
		if !ok || names != nil && !slices.Contains(names, s.Name) {
			continue
		}
		out = append(out, Entry{
			Name: s.Name, Value: &text, Source: source, ReadOnly: s.Update == ReadOnly, Type: s.Type, Doc: s.documentation(),
			Synonyms: []EntrySynonym{{s.Name, &text, source}},
		})
	}
	return out
}

// chain lists the values of one broker setting, strongest first.
func (b *Broker) chain(sn *snapshot, s *Setting) []EntrySynonym {
	var out []EntrySynonym
	for _, l := range b.levels(sn) {
		if text, ok := l.values[s.Name]; ok {
			out = append(out, EntrySynonym{s.Name, &text, l.source})
		}
	}
	if !s.Unset {
		out = append(out, EntrySynonym{s.Name, &s.Default, Default})
	}
	return out
}

// documentation is the setting's description with what it does not do.
func (s *Setting) documentation() string {
	if s.Inert != "" {
		return fmt.Sprintf("%s Accepted, without effect: %s.", s.Doc, s.Inert)
	}
	return s.Doc
}
