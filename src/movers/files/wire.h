// The stream between two hosts (docs/formats/files.md): frames as bytes and as values. Pure. Every length is
// bounded before anything is allocated; what cannot be true is corrupt, and no path leaves here that is unsafe.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "movers/files/version.h"

namespace midstream::files {

inline constexpr std::uint32_t kProtocol = 2;
inline constexpr std::size_t kMaxFileFrame = 4u << 20;   // any frame
inline constexpr std::size_t kMaxInline = 256u << 10;    // content of a file within a batch
inline constexpr std::size_t kMaxPart = 1u << 20;        // content in one Part
inline constexpr std::size_t kMaxBatch = 8192;           // changes in a batch
inline constexpr std::size_t kMaxXattrs = 128;           // attributes of one entry
inline constexpr std::size_t kMaxXattrValue = 64u << 10;
inline constexpr std::size_t kMaxXattrBytes = 256u << 10;  // all values of one entry
inline constexpr std::size_t kMaxText = 1024;

enum class Op : std::uint8_t {
  put = 1,   // version and content (bytes of a file, target of a symlink)
  meta = 2,  // version whose content the receiver has already
  gone = 3,  // nothing is there any more
  parts = 4,  // version whose content came before, in Parts
  rename = 5  // what was `from`, with all below it; its version is as it was there
};

// One path's state on the sender. Views point into the decoded frame.
struct Change {
  Op op = Op::put;
  std::string_view path;   // safe, or "." for the root (then a directory, put or meta)
  Version version;         // none for gone
  std::uint64_t base = 0;  // digest of the version that the sender last knew to be on both sides
  Xattrs xattrs;
  std::string_view content;
  std::uint32_t file = 0;  // of parts
  std::string_view from;   // of rename; safe
};

// From the sender. Sequences rise by one with each Batch.
struct Batch {
  std::uint64_t sequence = 0;
  std::vector<Change> changes;
};
struct Part {  // content of a file too large for a batch; what is not sent is a hole
  std::uint32_t file = 0;
  std::uint64_t offset = 0;
  std::string_view bytes;
};
struct Cancel {
  std::uint32_t file = 0;
};
struct Ping {
  bool checkpoint = false;  // make everything before this durable now
};
// From the receiver.
struct Welcome {
  std::uint32_t protocol = kProtocol;
  std::uint64_t incarnation = 0;  // of the receiver's index: another one means that it knows nothing
};
struct Refusal {
  Error error;
};
struct Failure {
  std::string_view path;
  bool need_content = false;  // a meta whose content is not there after all
  std::string_view text;
};
struct Ack {
  std::uint64_t applied = 0;  // visible up to this sequence
  std::uint64_t durable = 0;  // on disk up to this one
  std::vector<Failure> failures;  // of the batch `applied`
};
struct Status {
  std::string_view text;  // why the receiver does not go on; "": it does
};

using Frame = std::variant<Batch, Part, Cancel, Ping, Welcome, Refusal, Ack, Status>;

Result<Frame> decode(std::string_view body);

std::string encode(const Part& part);
std::string encode(const Cancel& cancel);
std::string encode(const Ping& ping);
std::string encode(const Welcome& welcome);
std::string encode(const Refusal& refusal);
std::string encode(const Ack& ack);
std::string encode(const Status& status);

// A Part whose content is read into it: begin_part() makes room for `most` bytes at kPartHead, end_part() says how many came.
inline constexpr std::size_t kPartHead = 17;
std::string begin_part(std::uint32_t file, std::uint64_t offset, std::size_t most);
void end_part(std::string& frame, std::size_t bytes);

// A Batch under construction: changes are appended as they are found.
class BatchWriter {
 public:
  void add(const Change& change);
  std::size_t count() const { return count_; }
  std::size_t bytes() const { return body_.size(); }
  bool empty() const { return count_ == 0; }
  // The frame; the writer is empty again.
  std::string take(std::uint64_t sequence);

 private:
  std::string body_;  // the frame, its head not filled in yet
  std::size_t last_ = 0;
  std::uint32_t count_ = 0;
};

// One entry of a tree on its way to be compared (verify).
struct Listed {
  std::string path;
  Version version;
};
std::string encode_listing(const std::vector<Listed>& entries, bool last);
// Appends to `entries`; the result says whether it was the last.
Result<bool> decode_listing(std::string_view body, std::vector<Listed>& entries);

// Fixed-width little-endian fields; shared with the index's records.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}
  void u8(std::uint8_t v) { out_ += static_cast<char>(v); }
  void u16(std::uint16_t v) { number(v, 2); }
  void u32(std::uint32_t v) { number(v, 4); }
  void u64(std::uint64_t v) { number(v, 8); }
  void text(std::string_view v);   // u16 length
  void bytes(std::string_view v);  // u32 length
  void version(const Version& v);

 private:
  void number(std::uint64_t v, std::size_t width);
  std::string& out_;
};
class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  Result<std::uint8_t> u8();
  Result<std::uint16_t> u16();
  Result<std::uint32_t> u32();
  Result<std::uint64_t> u64();
  Result<std::string_view> text(std::size_t limit);
  Result<std::string_view> bytes(std::size_t limit);
  Result<Version> version();
  Result<> end() const;
  std::size_t left() const { return in_.size(); }

 private:
  Result<std::uint64_t> number(std::size_t width);
  std::string_view in_;
};

}  // namespace midstream::files
