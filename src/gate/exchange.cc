#include "gate/exchange.h"

#include <algorithm>

namespace midstream::gate {

namespace {

using namespace std::literals;

Exchange::Row columns_of(std::string_view body) {
  Exchange::Row columns;
  if (body.size() < 2) return columns;
  const int count = read_u16(body);
  body.remove_prefix(2);
  for (int i = 0; i < count && body.size() >= 4; ++i) {
    const auto size = read_u32(body);
    body.remove_prefix(4);
    if (size == 0xffffffff) {
      columns.emplace_back(std::nullopt);
      continue;
    }
    columns.emplace_back(std::string(body.substr(0, size)));
    body.remove_prefix(std::min<std::size_t>(size, body.size()));
  }
  return columns;
}

}  // namespace

std::string aside(std::string_view sql, bool describe) {
  const std::string own = std::string(kOwnStatement) + "_too" + '\0';
  // Closed first: where something failed behind it, it is still there.
  const auto parsed = message('C', "S" + own) + message('P', own + std::string(sql) + "\0\0\0"s);
  const auto closed = message('C', "S" + own);
  if (describe) return parsed + message('D', "S" + own) + closed;
  // Its portal has a name of the gate's too: the client may have an unnamed one only within a transaction.
  return parsed + message('B', own + own + "\0\0\0\0\0\0"s) + message('E', own + "\0\0\0\0"s) + message('C', "P" + own) + closed;
}

void Exchange::again(Exchange&& next) {
  out_ += next.out_;
  left_ += next.left_;
  error_.clear();
  sqlstate_.clear();
  rows_.clear();
  most_results_ = next.most_results_;
  kept_ = 0;
  under_way_ = {};
  results_.clear();
  descriptions_.clear();
  notices_.clear();
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
      if (most_results_ > 0) result(message);
      else if (message.whole()) row(head);
      else if (error_.empty()) error_ = "an answer is too long";
      break;
    case 'C':
    case 'd':
    case 'T':
    case 'N':
      if (most_results_ > 0) result(message);
      break;
    default: break;
  }
}

void Exchange::result(const Message& message) {
  kept_ += message.head.size();
  const bool fits = message.whole() && kept_ <= most_results_;
  if (!fits && message.type != 'N' && error_.empty()) error_ = "an answer is too long";
  if (!fits) return;
  auto head = message.head;
  switch (message.type) {
    case 'D': under_way_.rows.push_back(columns_of(head)); break;
    case 'd': under_way_.copied += head; break;
    case 'T': descriptions_.emplace_back(head); break;
    case 'N': notices_.emplace_back(error_field(head, 'M')); break;
    default:
      under_way_.tag = take_string(head).value_or("");
      results_.push_back(std::exchange(under_way_, {}));
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
  for (auto& one : columns_of(body)) columns.push_back(std::move(one).value_or(""));
  rows_.push_back(std::move(columns));
}

}  // namespace midstream::gate
