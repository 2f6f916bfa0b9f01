package tensorboard

import (
	"bytes"
	"fmt"
	"image/png"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"mp/metrics"
)

// This file writes and reads the few messages of TensorBoard's protocol that are needed here (tensorflow/core/util/event.proto
// and tensorflow/core/framework/summary.proto), field by field: the generated ones would bring all of TensorFlow's.

// Numbers of fields.
const (
	eventWallTime    = 1
	eventStep        = 2
	eventFileVersion = 3
	eventSummary     = 5
	eventSessionLog  = 7
	eventSource      = 10

	sourceWriter = 1
	logStatus    = 1
	summaryValue = 1

	valueTag       = 1
	valueSimple    = 2
	valueImage     = 4
	valueHistogram = 5

	imageHeight     = 1
	imageWidth      = 2
	imageColorspace = 3
	imageEncoded    = 4
)

const (
	fileVersion  = "brain.Event:2"
	sessionStart = 1 // SessionLog.START: what was told of this step and later ones does not count any more
	rgb          = 3 // of Image.colorspace
)

// value is one value of a summary: its tag, and the field that holds it.
type value struct {
	tag  string
	body []byte
}

// message is an Event.
type message struct {
	time    time.Time
	step    int
	writer  string // see place
	values  []value
	restart bool
}

// encode returns m as bytes of the protocol.
func (m message) encode() []byte {
	b := protowire.AppendTag(nil, eventWallTime, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, math.Float64bits(float64(m.time.UnixMicro())/1e6))
	b = protowire.AppendTag(b, eventStep, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(m.step))
	switch {
	case m.restart:
		b = protowire.AppendTag(b, eventSessionLog, protowire.BytesType)
		b = protowire.AppendBytes(b, protowire.AppendVarint(protowire.AppendTag(nil, logStatus, protowire.VarintType), sessionStart))
	case len(m.values) == 0:
		b = protowire.AppendTag(b, eventFileVersion, protowire.BytesType)
		b = protowire.AppendString(b, fileVersion)
	default:
		var summary []byte
		for _, v := range m.values {
			inner := protowire.AppendTag(nil, valueTag, protowire.BytesType)
			inner = append(protowire.AppendString(inner, v.tag), v.body...)
			summary = protowire.AppendTag(summary, summaryValue, protowire.BytesType)
			summary = protowire.AppendBytes(summary, inner)
		}
		b = protowire.AppendTag(b, eventSummary, protowire.BytesType)
		b = protowire.AppendBytes(b, summary)
	}
	if m.writer != "" {
		source := protowire.AppendString(protowire.AppendTag(nil, sourceWriter, protowire.BytesType), m.writer)
		b = protowire.AppendTag(b, eventSource, protowire.BytesType)
		b = protowire.AppendBytes(b, source)
	}
	return b
}

// decode reads step, writer and whether it is a restart of what encode wrote; values are passed over.
func decode(b []byte) (message, error) {
	m := message{}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return m, fmt.Errorf("read event: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case number == eventStep && kind == protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				m.step = int(v)
			}
		case number == eventSource && kind == protowire.BytesType:
			var source []byte
			if source, n = protowire.ConsumeBytes(b); n >= 0 {
				if _, _, skip := protowire.ConsumeTag(source); skip > 0 {
					if text, ok := protowire.ConsumeString(source[skip:]); ok > 0 {
						m.writer = text
					}
				}
			}
		default:
			m.restart = m.restart || number == eventSessionLog
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return m, fmt.Errorf("read event: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	return m, nil
}

// scalar is a number.
func scalar(tag string, v float64) value {
	b := protowire.AppendTag(nil, valueSimple, protowire.Fixed32Type)
	return value{tag, protowire.AppendFixed32(b, math.Float32bits(float32(v)))}
}

// picture is a PNG.
func picture(tag string, file []byte) (value, error) {
	size, err := png.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return value{}, fmt.Errorf("look into picture %s: %w", tag, err)
	}
	var b []byte
	for _, f := range []struct {
		number protowire.Number
		v      int
	}{{imageHeight, size.Height}, {imageWidth, size.Width}, {imageColorspace, rgb}} {
		b = protowire.AppendVarint(protowire.AppendTag(b, f.number, protowire.VarintType), uint64(f.v))
	}
	b = protowire.AppendBytes(protowire.AppendTag(b, imageEncoded, protowire.BytesType), file)
	return value{tag, protowire.AppendBytes(protowire.AppendTag(nil, valueImage, protowire.BytesType), b)}, nil
}

// histogram is the distribution of a tensor's elements.
func histogram(tag string, h metrics.Histogram) value {
	var b []byte
	for i, v := range []float64{h.Min, h.Max, float64(h.Count), h.Sum, h.Squares} { // fields 1 to 5
		b = protowire.AppendFixed64(protowire.AppendTag(b, protowire.Number(i+1), protowire.Fixed64Type), math.Float64bits(v))
	}
	var limits, counts []byte
	for i, n := range h.Buckets {
		limits = protowire.AppendFixed64(limits, math.Float64bits(h.Limit(i)))
		counts = protowire.AppendFixed64(counts, math.Float64bits(float64(n)))
	}
	b = protowire.AppendBytes(protowire.AppendTag(b, 6, protowire.BytesType), limits)
	b = protowire.AppendBytes(protowire.AppendTag(b, 7, protowire.BytesType), counts)
	return value{tag, protowire.AppendBytes(protowire.AppendTag(nil, valueHistogram, protowire.BytesType), b)}
}
