#include "gate/exchange.h"

#include <algorithm>

namespace midstream::gate {

void Exchange::again(Exchange&& next) {
  out_ += next.out_;
  left_ += next.left_;
  error_.clear();
  sqlstate_.clear();
  rows_.clear();
}

void Exchange::from_server(std::string_view& bytes) { go_through(bytes, false); }

void Exchange::overhear(std::string_view& bytes) { go_through(bytes, true); }

void Exchange::go_through(std::string_view& bytes, bool all) {
  while (all ? !broken_ : !done()) {
    const auto found = scanner_.next(bytes);
    if (!found) break;
    said(*found);
  }
  if (!scanner_.broken() || broken_) return;
  broken_ = true;
  error_ = scanner_.broken()->message;
}

void Exchange::said(const Message& message) {
  auto head = message.head;
  switch (message.type) {
    case 'Z':
      left_ = std::max(0, left_ - 1);
      if (!head.empty()) transaction_ = head[0];
      break;
    case 'E': failed(message); break;
    case 'S': {
      const auto name = take_string(head);
      const auto value = take_string(head);
      if (name && value) parameters_[std::string(*name)] = *value;
      break;
    }
    case 'A':
      if (message.whole()) for_client_ += gate::message('A', head);
      break;
    case 'D':
      if (message.whole()) row(head);
      else if (error_.empty()) error_ = "an answer is too long";
      break;
    default: break;
  }
}

void Exchange::failed(const Message& message) {
  if (error_.empty()) {
    error_ = error_field(message.head, 'M');
    sqlstate_ = error_field(message.head, 'C');
  }
  if (error_.empty()) error_ = "an error without a message";
  auto severity = error_field(message.head, 'V');
  if (severity.empty()) severity = error_field(message.head, 'S');
  if (severity != "FATAL" && severity != "PANIC") return;
  broken_ = true;
  fatal_ = gate::message('E', message.head);
}

void Exchange::row(std::string_view body) {
  std::vector<std::string> columns;
  if (body.size() < 2) return;
  const int count = read_u16(body);
  body.remove_prefix(2);
  for (int i = 0; i < count && body.size() >= 4; ++i) {
    const auto size = read_u32(body);
    body.remove_prefix(4);
    const bool null = size == 0xffffffff;
    columns.emplace_back(null ? std::string_view() : body.substr(0, size));
    if (!null) body.remove_prefix(std::min<std::size_t>(size, body.size()));
  }
  rows_.push_back(std::move(columns));
}

}  // namespace midstream::gate
