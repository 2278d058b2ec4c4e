// Orders in the shop's database (schema.sql), as the shop and the direct database clients place them.
#pragma once

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "lab/workload/pq.h"

namespace midstream::lab {

struct Order {
  std::string key;  // the idempotency key
  std::string customer;
  std::int32_t amount = 0;
  std::vector<std::string> items;

  bool operator==(const Order&) const = default;
};

struct Placed {
  std::int64_t id = 0;
  bool fresh = false;  // false: an order with this key was there already
};

// One transaction: the order, its lines, and an invoice with the next number; several round trips, as
// applications make them. Errors as PgConnection::exec; refused too where an order with other content has the
// key.
Result<Placed> place_order(PgConnection& connection, const Order& order, const std::string& placed_by,
                           Deadline deadline, const std::stop_token& stop);

struct StoredOrder {
  std::int64_t id = 0;
  Order order;
  std::string placed_by;
};
Result<std::optional<StoredOrder>> find_order(PgConnection& connection, const std::string& key,
                                              Deadline deadline, const std::stop_token& stop);

// {"key","customer","amount","items"}; refused, naming the field, if one is missing or out of bounds.
Result<Order> order_from_json(const Json& value);
Json to_json(const Order& order);

}  // namespace midstream::lab
