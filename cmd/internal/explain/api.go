package explain

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// image is the operators' proto files with their comments, without imports.
//
//go:embed api.binpb
var image []byte

// kinds are the resources, by the words for them; the first word is the name.
var kinds = []struct {
	words   []string
	message protoreflect.FullName
}{
	{[]string{"gateway", "gateways", "gw"}, "leasehold.v1.Gateway"},
	{[]string{"session", "sessions", "sess"}, "leasehold.v1.Session"},
	{[]string{"worker", "workers", "wk"}, "leasehold.v1.Worker"},
}

// Kinds are the resources that can be explained.
func Kinds() []string {
	var names []string
	for _, kind := range kinds {
		names = append(names, kind.words[0])
	}
	return names
}

// api returns the files of image.
var api = sync.OnceValues(func() (*protoregistry.Files, error) {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(image, &set); err != nil {
		return nil, fmt.Errorf("read the embedded API: %w", err)
	}
	files := &protoregistry.Files{}
	for _, one := range set.GetFile() { // each after those that it imports
		file, err := protodesc.NewFile(one, resolver{files})
		if err == nil {
			err = files.RegisterFile(file)
		}
		if err != nil {
			return nil, fmt.Errorf("read the embedded API: %w", err)
		}
	}
	return files, nil
})

// resolver finds our own files with comments, and Google's where they are.
type resolver struct{ own *protoregistry.Files }

func (r resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if file, err := r.own.FindFileByPath(path); err == nil {
		return file, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (r resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if found, err := r.own.FindDescriptorByName(name); err == nil {
		return found, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

// comment returns what the proto says of a descriptor, its paragraphs in one
// line each.
func comment(d protoreflect.Descriptor) []string {
	text := d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments
	var paragraphs []string
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if line := strings.Join(strings.Fields(paragraph), " "); line != "" {
			paragraphs = append(paragraphs, line)
		}
	}
	return paragraphs
}

// firstSentence returns how the comment of a descriptor begins.
func firstSentence(d protoreflect.Descriptor) string {
	paragraphs := comment(d)
	if len(paragraphs) == 0 {
		return ""
	}
	if end := strings.Index(paragraphs[0], ". "); end >= 0 {
		return paragraphs[0][:end+1]
	}
	return paragraphs[0]
}
