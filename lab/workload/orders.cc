#include "lab/workload/orders.h"

#include <fmt/format.h>

#include <limits>

namespace midstream::lab {
namespace {

// In the middle of a transaction: on any error the caller's connection goes, and the transaction with it.
Result<Placed> insert_order(PgConnection& connection, const Order& order, const std::string& placed_by,
                            Deadline deadline, const std::stop_token& stop) {
  const auto inserted = TRY(
      connection.exec("insert into orders (key, customer, amount, placed_by) values ($1, $2, $3, $4) "
                      "on conflict (key) do nothing returning id",
                      {order.key, order.customer, std::to_string(order.amount), placed_by}, deadline, stop));
  if (inserted.rows.empty()) {
    // In a new statement, and so with a snapshot that sees the row that was in the way.
    const auto stored = TRY(find_order(connection, order.key, deadline, stop));
    if (!stored) return retry(fmt::format("order {} was taken back meanwhile", order.key));
    if (stored->order != order)
      return refused(fmt::format("an order with other content has the key {}", order.key));
    return Placed{stored->id, false};
  }
  const std::string id = inserted.at(0, 0);
  const Json items(order.items);
  CHECK_OK(
      connection.exec("insert into order_lines (order_id, line, item) "
                      "select $1::bigint, n, item from jsonb_array_elements_text($2::jsonb) with ordinality "
                      "as given (item, n)",
                      {id, items.dump()}, deadline, stop));
  CHECK_OK(connection.exec("insert into invoices (number, order_id) values (nextval('invoice_numbers'), $1)",
                           {id}, deadline, stop));
  return Placed{std::stoll(id), true};
}

}  // namespace

Result<Placed> place_order(PgConnection& connection, const Order& order, const std::string& placed_by,
                           Deadline deadline, const std::stop_token& stop) {
  CHECK_OK(connection.exec("begin", {}, deadline, stop));
  auto placed = insert_order(connection, order, placed_by, deadline, stop);
  if (!placed) {
    if (!connection.dead())
      (void)connection.exec("rollback", {}, deadline, stop);  // else the server rolls it back
    return placed;
  }
  CHECK_OK(connection.exec("commit", {}, deadline, stop));
  return placed;
}

Result<std::optional<StoredOrder>> find_order(PgConnection& connection, const std::string& key,
                                              Deadline deadline, const std::stop_token& stop) {
  const auto found = TRY(connection.exec(
      "select o.id, o.customer, o.amount, coalesce(o.placed_by, ''), "
      "(select coalesce(jsonb_agg(l.item order by l.line), '[]') from order_lines l where l.order_id = o.id) "
      "from orders o where o.key = $1",
      {key}, deadline, stop));
  if (found.rows.empty()) return std::optional<StoredOrder>();
  StoredOrder out;
  out.id = std::stoll(found.at(0, 0));
  out.order.key = key;
  out.order.customer = found.at(0, 1);
  out.order.amount = std::stoi(found.at(0, 2));
  out.placed_by = found.at(0, 3);
  const auto items = TRY(parse_json(found.at(0, 4)));
  for (const auto& item : items)
    out.order.items.push_back(item.is_string() ? item.get<std::string>() : std::string());
  return std::optional(std::move(out));
}

Result<Order> order_from_json(const Json& value) {
  Order order;
  auto amount = get_int(value, "amount");
  auto key = get_string(value, "key");
  auto customer = get_string(value, "customer");
  if (!key || key->empty() || key->size() > 200)
    return refused("order: 'key' is not a text of 1 to 200 characters");
  if (!customer || customer->empty()) return refused("order: 'customer' is not a text");
  if (!amount || *amount < 0 || *amount > std::numeric_limits<std::int32_t>::max()) {
    return refused("order: 'amount' is not a number from 0 up");
  }
  order.key = *std::move(key);
  order.customer = *std::move(customer);
  order.amount = static_cast<std::int32_t>(*amount);
  if (value.contains("items")) {
    auto items = get_strings(value, "items");
    if (!items || items->size() > 100) return refused("order: 'items' is not a list of up to 100 texts");
    order.items = *std::move(items);
  }
  return order;
}

Json to_json(const Order& order) {
  return Json{
      {"key", order.key}, {"customer", order.customer}, {"amount", order.amount}, {"items", order.items}};
}

}  // namespace midstream::lab
