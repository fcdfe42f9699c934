"""The methods, judges and data sets that come with alignkit; one per file, found like any third party's."""
