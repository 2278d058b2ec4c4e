#include "movers/files/wire.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/files/path.h"

namespace midstream::files {

namespace {

enum Tag : std::uint8_t {
  kBatch = 1, kPart = 2, kCancel = 3, kPing = 4, kWelcome = 16, kRefusal = 17, kAck = 18, kStatus = 19, kListing = 32
};

constexpr std::size_t kBatchHead = 13;  // tag, sequence, count

std::string begin(Tag tag) { return std::string(1, static_cast<char>(tag)); }

std::string_view clipped(std::string_view text) { return text.substr(0, kMaxText); }

void write_change(Writer& out, const Change& change) {
  out.u8(static_cast<std::uint8_t>(change.op));
  out.text(change.path);
  out.u64(change.base);
  if (change.op == Op::gone) return;
  out.version(change.version);
  out.u16(static_cast<std::uint16_t>(change.xattrs.size()));
  for (const auto& [name, value] : change.xattrs) {
    out.text(name);
    out.bytes(value);
  }
  if (change.op == Op::put) out.bytes(change.content);
  if (change.op == Op::parts) out.u32(change.file);
  if (change.op == Op::rename) out.text(change.from);
}

Result<Xattrs> read_xattrs(Reader& in) {
  const auto count = TRY(in.u16());
  if (count > kMaxXattrs) return corrupt(fmt::format("a change carries {} attributes", count));
  Xattrs xattrs;
  std::size_t total = 0;
  for (int i = 0; i < count; ++i) {
    const auto name = TRY(in.text(255));
    const auto value = TRY(in.bytes(kMaxXattrValue));
    total += value.size();
    if (name.empty() || name.find('\0') != name.npos) return corrupt("an attribute has no proper name");
    if (total > kMaxXattrBytes) return corrupt("the attributes of a change are over the limit");
    if (!xattrs.empty() && xattrs.back().first >= name) return corrupt("attributes are out of order");
    xattrs.emplace_back(name, value);
  }
  return xattrs;
}

Result<> check_rename(const Change& change) {
  if (!is_safe_path(change.from)) return corrupt("a rename from an unsafe path");
  const bool into_itself = change.from == change.path || is_below(change.path, change.from) || is_below(change.from, change.path);
  if (into_itself) return corrupt(fmt::format("a rename of {} into itself", printable(change.path)));
  return {};
}

// What each kind of change may carry.
Result<> check_change(const Change& change) {
  const auto& v = change.version;
  const bool root = change.path == ".";
  const auto bad = [&](std::string_view why) { return corrupt(fmt::format("{} for {}", why, printable(change.path))); };
  if (!root && !is_safe_path(change.path)) return bad("an unsafe path");
  if (change.op == Op::gone) return root ? Result<>(bad("a removal")) : Result<>();
  if (root && change.op == Op::rename) return bad("a rename");
  if (root && (v.type != EntryType::directory || change.op == Op::parts)) return bad("something other than a directory");
  if (!v.present()) return bad("no type");
  if (change.op == Op::rename) return check_rename(change);
  if (change.op == Op::parts) return v.type == EntryType::file ? Result<>() : Result<>(bad("parts of no file"));
  if (change.op == Op::meta) return {};
  if (v.type == EntryType::file) {
    return change.content.size() == v.size ? Result<>() : Result<>(bad("content of another size"));
  }
  if (v.type == EntryType::symlink) {
    const bool proper = !change.content.empty() && change.content.size() < kMaxPath && change.content.find('\0') == std::string_view::npos;
    return proper ? Result<>() : Result<>(bad("an improper link target"));
  }
  return change.content.empty() ? Result<>() : Result<>(bad("unexpected content"));
}

Result<Change> read_change(Reader& in) {
  Change change;
  const auto op = TRY(in.u8());
  if (op < 1 || op > 5) return corrupt(fmt::format("unknown change {}", op));
  change.op = static_cast<Op>(op);
  change.path = TRY(in.text(kMaxPath));
  change.base = TRY(in.u64());
  if (change.op != Op::gone) {
    change.version = TRY(in.version());
    change.xattrs = TRY(read_xattrs(in));
    if (change.op == Op::put) change.content = TRY(in.bytes(kMaxInline));
    if (change.op == Op::parts) change.file = TRY(in.u32());
    if (change.op == Op::rename) change.from = TRY(in.text(kMaxPath));
  }
  CHECK_OK(check_change(change));
  return change;
}

Result<Frame> read_batch(Reader& in) {
  Batch batch;
  batch.sequence = TRY(in.u64());
  const auto count = TRY(in.u32());
  if (count > kMaxBatch) return corrupt(fmt::format("a batch of {} changes is over the limit", count));
  for (std::uint32_t i = 0; i < count; ++i) batch.changes.push_back(TRY(read_change(in)));
  return batch;
}

Result<Frame> read_part(Reader& in) {
  Part part;
  part.file = TRY(in.u32());
  part.offset = TRY(in.u64());
  part.bytes = TRY(in.bytes(kMaxPart));
  if (part.offset > std::uint64_t{1} << 60) return corrupt("a part lies beyond the largest file");
  return part;
}

Result<Frame> read_ack(Reader& in) {
  Ack ack;
  ack.applied = TRY(in.u64());
  ack.durable = TRY(in.u64());
  const auto count = TRY(in.u32());
  if (count > kMaxBatch) return corrupt("more failures than a batch holds");
  for (std::uint32_t i = 0; i < count; ++i) {
    Failure failure;
    failure.path = TRY(in.text(kMaxPath));
    failure.need_content = TRY(in.u8()) != 0;
    failure.text = TRY(in.text(kMaxText));
    if (failure.path != "." && !is_safe_path(failure.path)) return corrupt("an unsafe path in a failure");
    ack.failures.push_back(failure);
  }
  return ack;
}

Result<Frame> read_refusal(Reader& in) {
  Refusal refusal;
  refusal.error.kind = error_kind_from(TRY(in.text(32)));
  refusal.error.what = TRY(in.text(kMaxText));
  refusal.error.todo = TRY(in.text(kMaxText));
  return refusal;
}

Result<Frame> read_body(std::uint8_t tag, Reader& in) {
  switch (tag) {
    case kBatch: return read_batch(in);
    case kPart: return read_part(in);
    case kCancel: return Cancel{TRY(in.u32())};
    case kPing: return Ping{TRY(in.u8()) != 0};
    case kWelcome: {
      Welcome welcome;
      welcome.protocol = TRY(in.u32());
      welcome.incarnation = TRY(in.u64());
      return welcome;
    }
    case kRefusal: return read_refusal(in);
    case kAck: return read_ack(in);
    case kStatus: return Status{TRY(in.text(kMaxText))};
    default: return corrupt(fmt::format("unknown frame {}", tag));
  }
}

}  // namespace

Result<Frame> decode(std::string_view body) {
  if (body.size() > kMaxFileFrame) return corrupt("a frame is over the limit");
  Reader in(body);
  const auto tag = TRY(in.u8());
  auto frame = TRY(read_body(tag, in));
  CHECK_OK(in.end());
  return frame;
}

std::string encode(const Part& part) {
  auto out = begin(kPart);
  Writer writer(out);
  writer.u32(part.file);
  writer.u64(part.offset);
  writer.bytes(part.bytes);
  return out;
}

std::string begin_part(std::uint32_t file, std::uint64_t offset, std::size_t most) {
  auto out = begin(kPart);
  out.reserve(kPartHead + most);
  Writer writer(out);
  writer.u32(file);
  writer.u64(offset);
  writer.u32(0);
  out.resize_and_overwrite(kPartHead + most, [most](char*, std::size_t) { return kPartHead + most; });
  return out;
}

void end_part(std::string& frame, std::size_t bytes) {
  frame.resize(kPartHead + bytes);
  std::string length;
  Writer(length).u32(static_cast<std::uint32_t>(bytes));
  frame.replace(kPartHead - length.size(), length.size(), length);
}

std::string encode(const Cancel& cancel) {
  auto out = begin(kCancel);
  Writer(out).u32(cancel.file);
  return out;
}

std::string encode(const Ping& ping) {
  auto out = begin(kPing);
  Writer(out).u8(ping.checkpoint ? 1 : 0);
  return out;
}

std::string encode(const Welcome& welcome) {
  auto out = begin(kWelcome);
  Writer writer(out);
  writer.u32(welcome.protocol);
  writer.u64(welcome.incarnation);
  return out;
}

std::string encode(const Refusal& refusal) {
  auto out = begin(kRefusal);
  Writer writer(out);
  writer.text(to_string(refusal.error.kind));
  writer.text(clipped(refusal.error.what));
  writer.text(clipped(refusal.error.todo));
  return out;
}

std::string encode(const Ack& ack) {
  auto out = begin(kAck);
  Writer writer(out);
  writer.u64(ack.applied);
  writer.u64(ack.durable);
  writer.u32(static_cast<std::uint32_t>(ack.failures.size()));
  for (const auto& failure : ack.failures) {
    writer.text(failure.path);
    writer.u8(failure.need_content ? 1 : 0);
    writer.text(clipped(failure.text));
  }
  return out;
}

std::string encode(const Status& status) {
  auto out = begin(kStatus);
  Writer(out).text(clipped(status.text));
  return out;
}

void BatchWriter::add(const Change& change) {
  if (body_.empty()) {
    body_.reserve(last_);
    body_.assign(kBatchHead, '\0');
  }
  Writer writer(body_);
  write_change(writer, change);
  ++count_;
}

std::string BatchWriter::take(std::uint64_t sequence) {
  auto head = begin(kBatch);
  Writer writer(head);
  writer.u64(sequence);
  writer.u32(std::exchange(count_, 0));
  if (body_.empty()) return head;
  last_ = body_.size();
  body_.replace(0, kBatchHead, head);
  return std::exchange(body_, {});
}

std::string encode_listing(const std::vector<Listed>& entries, bool last) {
  auto out = begin(kListing);
  Writer writer(out);
  writer.u8(last ? 1 : 0);
  writer.u32(static_cast<std::uint32_t>(entries.size()));
  for (const auto& entry : entries) {
    writer.text(entry.path);
    writer.version(entry.version);
  }
  return out;
}

Result<bool> decode_listing(std::string_view body, std::vector<Listed>& entries) {
  Reader in(body);
  if (TRY(in.u8()) != kListing) return corrupt("a listing was expected");
  const bool last = TRY(in.u8()) != 0;
  const auto count = TRY(in.u32());
  if (count > kMaxBatch) return corrupt("a listing is over the limit");
  for (std::uint32_t i = 0; i < count; ++i) {
    Listed entry;
    entry.path = TRY(in.text(kMaxPath));
    entry.version = TRY(in.version());
    if (entry.path != "." && !is_safe_path(entry.path)) return corrupt("an unsafe path in a listing");
    entries.push_back(std::move(entry));
  }
  CHECK_OK(in.end());
  return last;
}

void Writer::number(std::uint64_t v, std::size_t width) {
  char bytes[8];
  for (std::size_t i = 0; i < sizeof bytes; ++i) bytes[i] = static_cast<char>(v >> (8 * i) & 0xff);
  out_.append(bytes, width);
}

void Writer::text(std::string_view v) {
  u16(static_cast<std::uint16_t>(v.size()));
  out_ += v;
}

void Writer::bytes(std::string_view v) {
  u32(static_cast<std::uint32_t>(v.size()));
  out_ += v;
}

void Writer::version(const Version& v) {
  u8(static_cast<std::uint8_t>(v.type));
  u16(v.mode);
  u32(v.uid);
  u32(v.gid);
  u64(static_cast<std::uint64_t>(v.mtime_ns));
  u64(v.size);
  u64(v.rdev);
  u64(v.hash);
  u64(v.xattrs);
}

Result<std::uint64_t> Reader::number(std::size_t width) {
  if (in_.size() < width) return corrupt("a frame ends within a number");
  std::uint64_t v = 0;
  for (std::size_t i = 0; i < width; ++i) v |= std::uint64_t{static_cast<unsigned char>(in_[i])} << (8 * i);
  in_.remove_prefix(width);
  return v;
}

Result<std::uint8_t> Reader::u8() { return static_cast<std::uint8_t>(TRY(number(1))); }
Result<std::uint16_t> Reader::u16() { return static_cast<std::uint16_t>(TRY(number(2))); }
Result<std::uint32_t> Reader::u32() { return static_cast<std::uint32_t>(TRY(number(4))); }
Result<std::uint64_t> Reader::u64() { return number(8); }

Result<std::string_view> Reader::text(std::size_t limit) {
  const std::size_t size = TRY(u16());
  if (size > limit || size > in_.size()) return corrupt(fmt::format("a text of {} bytes is over the limit", size));
  const auto out = in_.substr(0, size);
  in_.remove_prefix(size);
  return out;
}

Result<std::string_view> Reader::bytes(std::size_t limit) {
  const std::size_t size = TRY(u32());
  if (size > limit || size > in_.size()) return corrupt(fmt::format("a field of {} bytes is over the limit", size));
  const auto out = in_.substr(0, size);
  in_.remove_prefix(size);
  return out;
}

Result<Version> Reader::version() {
  Version v;
  const auto type = TRY(u8());
  if (type > kLastEntryType) return corrupt(fmt::format("unknown type of entry {}", type));
  v.type = static_cast<EntryType>(type);
  v.mode = TRY(u16());
  v.uid = TRY(u32());
  v.gid = TRY(u32());
  v.mtime_ns = static_cast<std::int64_t>(TRY(u64()));
  v.size = TRY(u64());
  v.rdev = TRY(u64());
  v.hash = TRY(u64());
  v.xattrs = TRY(u64());
  if (v.mode > 07777) return corrupt("a mode has bits that no mode has");
  return v;
}

Result<> Reader::end() const {
  return in_.empty() ? Result<>() : Result<>(corrupt(fmt::format("{} bytes follow the end of a frame", in_.size())));
}

}  // namespace midstream::files
