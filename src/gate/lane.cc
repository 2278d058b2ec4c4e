#include "gate/lane.h"

#include <cstring>
#include <span>

namespace midstream::gate {

bool Lane::begin_with(std::string_view bytes) {
  if (bytes.size() > kSize) return false;
  if (!bytes_) bytes_ = std::make_unique_for_overwrite<char[]>(kSize);
  std::memcpy(bytes_.get(), bytes.data(), bytes.size());
  end_ = bytes.size();
  return true;
}

bool Lane::move_on(std::string_view bytes) {
  from_ended_ = false;
  if (bytes.size() > kSize - end_) return false;
  if (!bytes_) bytes_ = std::make_unique_for_overwrite<char[]>(kSize);
  std::memcpy(bytes_.get() + end_, bytes.data(), bytes.size());
  end_ += bytes.size();
  return true;
}

Io Lane::write_ready(TlsSocket& to) {
  std::size_t n = 0;
  const auto io = to.write(std::string_view(bytes_.get() + begin_, ready_ - begin_), n);
  begin_ += n;
  if (begin_ == end_) begin_ = ready_ = end_ = 0;
  return io;
}

// What may not go on yet fills the buffer at most: then nobody reads.
Io Lane::read_more(TlsSocket& from) {
  if (begin_ > 0) {
    std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    ready_ -= begin_;
    begin_ = 0;
  }
  if (end_ == kSize) return Io::blocked;
  std::size_t n = 0;
  const auto io = from.read(std::span(bytes_.get() + end_, kSize - end_), n);
  end_ += n;
  return io;
}

}  // namespace midstream::gate
