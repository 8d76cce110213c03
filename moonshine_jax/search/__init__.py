"""The best mixture of cheap blocks for a budget: blocks that have learnt alone, scored in the teacher, and chosen."""
